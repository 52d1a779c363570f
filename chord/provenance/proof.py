"""Every link behind some files, checked in causal order: what came first is judged first. Reads files, writes none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chord.provenance.attempts import Attempts
from chord.provenance.lineage import Job, Lineage
from chord.provenance.rehash import Hasher, Now
from chord.provenance.verdicts import (
    Evidence,
    Finding,
    Status,
    file_findings,
    job_findings,
    kind_of,
    ledger_findings,
    stranger_findings,
    supposed_manifest,
    unreadable_findings,
)

Checks = Callable[[Path], Iterable[Finding]]


@dataclass(frozen=True)
class Link:
    """A file in the way of a number, and the worst that is said of it; `maker` where a job made it."""

    path: Path
    kind: str
    now: Now
    status: Status
    maker: Job | None


@dataclass(frozen=True)
class Proof:
    """All links, what came first first, and all that is wrong with them, in the same order."""

    evidence: Evidence
    links: tuple[Link, ...]
    findings: tuple[Finding, ...]

    @property
    def first_bad(self) -> Finding | None:
        """The first link that breaks the chain."""
        return next((finding for finding in self.findings if finding.status.is_bad), None)


def gathered(
    lineage: Lineage,
    attempts: Attempts,
    files: Sequence[Path],
    hasher: Hasher,
    changes: Mapping[Path, Sequence[str]],
    described: Mapping[Path, Sequence[str]],
) -> Evidence:
    """The evidence about these files: each, and each manifest of the study, hashed once."""
    wanted = dict.fromkeys([*files, *lineage.jobs, *lineage.unreadable])
    now = {path: hasher.now(path) for path in wanted}
    return Evidence(lineage, attempts, now, changes, described)


def proved(
    evidence: Evidence,
    files: Sequence[Path],
    recomputed: Checks,
    whole: bool,
    strangers: Mapping[Path, str],
) -> Proof:
    """The findings about `files`; with `whole` also about manifests, and `strangers`, that stand behind none of them.

    `recomputed` is asked about each file that is what its maker recorded: whether its numbers follow from its inputs.
    """
    lineage = evidence.lineage
    findings = [*ledger_findings(evidence)]
    judged: dict[Path, list[Finding]] = {}
    links: list[Link] = []

    def judge(job: Job | None) -> list[Finding]:
        """What is wrong with the job, the first time that it is asked about."""
        if job is None or job.path in judged:
            return []
        judged[job.path] = list(job_findings(evidence, job))
        return judged[job.path]

    for path in files:
        maker = lineage.makers.get(path)
        supposed = None if maker or not path.is_relative_to(lineage.study) else supposed_manifest(evidence, path)
        findings += judge(maker or lineage.jobs.get(path) or lineage.jobs.get(supposed or path))
        about = [*file_findings(evidence, path)]
        about += () if about else recomputed(path)
        findings += about
        said = [finding.status for finding in (*about, *(judged[maker.path] if maker else ()))]
        worst = next((status for status in said if status.is_bad), next(iter(said), Status.VERIFIED))
        links.append(Link(path, kind_of(path), evidence.now[path], worst, maker))
    if whole:
        findings += [finding for job in lineage.jobs.values() for finding in judge(job)]
        findings += unreadable_findings(evidence)
        findings += stranger_findings(evidence, strangers)
    return Proof(evidence, tuple(links), tuple(findings))

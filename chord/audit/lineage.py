"""Which file came from which: the manifests of a study as a graph. Hashes nothing and judges nothing."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from chord.errors import UserError
from chord.provenance.files import files_below
from chord.provenance.freshness import Hasher, Now
from chord.provenance.ledger import Attempts, fault, ledger_for
from chord.provenance.manifest import Content, Manifest, locate, read_manifest
from chord.steps import ENDING

# --- lineage -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One manifest, and where the files that it names are now."""

    path: Path
    manifest: Manifest

    @cached_property
    def inputs(self) -> dict[Path, Content]:
        """What it read, by where that is now."""
        return {_located(content, self.path): content for content in self.manifest.inputs.values()}

    @cached_property
    def outputs(self) -> dict[Path, Content]:
        """What it wrote, by where that is now."""
        return {_located(content, self.path): content for content in self.manifest.outputs.values()}

    def is_at_home(self, study: Path) -> bool:
        """Whether the command names the manifest where it is now, so that a copy of it never counts as the maker."""
        place = self.path.relative_to(study).as_posix()
        return any(word.endswith(place) for word in self.manifest.command)


class Reading(NamedTuple):
    """A job that read a file, and what the file was then."""

    job: Job
    content: Content


@dataclass(frozen=True)
class Lineage:
    """All jobs of a study that left a manifest."""

    study: Path
    jobs: dict[Path, Job]
    unreadable: dict[Path, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        """The folder that holds results/ and, in a whole copy, config/."""
        return self.study.parent.parent

    @cached_property
    def makers(self) -> dict[Path, Job]:
        """The job that says it made a file; of two that say so, the one whose manifest lies where it was written."""
        found: dict[Path, Job] = {}
        for job in sorted(self.jobs.values(), key=lambda job: (job.is_at_home(self.study), job.manifest.started)):
            found.update(dict.fromkeys(job.outputs, job))
        return dict(sorted(found.items()))

    @cached_property
    def readings(self) -> dict[Path, list[Reading]]:
        """Who read a file."""
        found: dict[Path, list[Reading]] = {}
        for job in self.jobs.values():
            for path, content in job.inputs.items():
                found.setdefault(path, []).append(Reading(job, content))
        return found

    def behind(self, files: Iterable[Path]) -> list[Path]:
        """The files and all that they were made from, what came first first. Manifests are among them where read."""
        order: dict[Path, None] = {}
        open_files: set[Path] = set()
        waiting: list[tuple[Path, bool]] = [(file, False) for file in reversed(list(files))]
        while waiting:
            file, done = waiting.pop()
            if done:
                order[file] = None
            elif file not in open_files:
                open_files.add(file)
                waiting.append((file, True))
                maker = self.makers.get(file)
                waiting += [(before, False) for before in reversed(list(maker.inputs if maker else ()))]
        return list(order)

    def place(self, path: Path) -> str:
        """The path relative to the study, as ledgers and expectations name it."""
        return path.relative_to(self.study).as_posix()

    def shown(self, path: Path) -> str:
        """The path relative to the project where it lies in it."""
        return path.relative_to(self.project).as_posix() if path.is_relative_to(self.project) else str(path)


def study_of(path: Path) -> Path:
    """The folder results/STUDY that `path` is or lies in. Raises UserError for a place outside of any."""
    ledger = ledger_for(path / "any")
    if ledger is None:
        raise UserError(f"{path}: found no folder results/STUDY above it, expected a place in the results of a study")
    return ledger.parent.parent


def read_lineage(study: Path) -> Lineage:
    """The graph of a study; manifests that cannot be read are told apart, not raised."""
    study = Path(os.path.abspath(study))
    jobs: dict[Path, Job] = {}
    unreadable: dict[Path, str] = {}
    for path in manifests_in(study):
        try:
            jobs[path] = Job(path, read_manifest(path))
        except UserError as error:
            unreadable[path] = str(error).removeprefix(f"{path}: ")
    return Lineage(study, _once(study, jobs), unreadable)


def _once(study: Path, jobs: dict[Path, Job]) -> dict[Path, Job]:
    """The jobs without manifests that a link shows a second time, or shows of elsewhere.

    A folder of results may be a link, to a larger disk: there a manifest is named by its command, or lies beside what
    its job made. Behind any other link it counts for nothing.
    """
    real = {path: os.path.realpath(path) for path in jobs}
    beside = {path for path, job in jobs.items() if any(output.parent == path.parent for output in job.outputs)}
    home = beside | {path for path, job in jobs.items() if job.is_at_home(study)}
    at_home, top = {real[path] for path in home}, os.path.realpath(study)
    linked = {path for path in jobs if real[path] != os.path.join(top, path.relative_to(study))}
    return {path: job for path, job in jobs.items() if path in home or not (path in linked or real[path] in at_home)}


def manifests_in(folder: Path) -> Iterator[Path]:
    """Every manifest below `folder`, in order of name; links are followed."""
    return (path for path in files_below(folder) if path.name.endswith(ENDING) and not path.name.startswith("."))


def _located(content: Content, manifest: Path) -> Path:
    return Path(os.path.abspath(locate(content, manifest)))


# --- verdicts ------------------------------------------------------------------------------------

# What is wrong with the links of a lineage: altered, missing, stale, untracked; or to be known: dirty, unpinned.
#
# A file is what its maker recorded, else it is altered. A job is stale if it read other bytes than its input has now,
# or if code, settings or pins are others now. Knows hashes and manifests; knows no config, no tables.

LEDGER = "provenance/ledger.jsonl"


class Status(StrEnum):
    """What is said of a link."""

    VERIFIED = "verified"
    ALTERED = "altered"
    MISSING = "missing"
    STALE = "stale"
    UNTRACKED = "untracked"
    DIRTY = "dirty tree"
    UNPINNED = "unpinned"
    STRANGE = "of no job"
    NOT_JUDGED = "not judged"

    @property
    def is_bad(self) -> bool:
        """Whether a number above this link is not proven; the others are said, and bad only where one is strict."""
        return self in (Status.ALTERED, Status.MISSING, Status.STALE, Status.UNTRACKED)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: where (relative to the project), what was found, what to do."""

    status: Status
    path: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Evidence:
    """What the findings are drawn from. `changes` and `settings`: what is said about jobs and files by who knows."""

    lineage: Lineage
    attempts: Attempts
    now: Mapping[Path, Now]
    changes: Mapping[Path, Sequence[str]] = field(default_factory=dict)  # by manifest: other code, settings, pins now
    described: Mapping[Path, Sequence[str]] = field(default_factory=dict)  # by run.json: what config/ says otherwise


def ledger_findings(evidence: Evidence) -> Iterator[Finding]:
    """What is wrong with the ledger as a whole."""
    path = evidence.lineage.shown(evidence.lineage.study / LEDGER)
    remedy = (
        f"put {path} back from a backup; without one nothing here can be proven:"
        " move the study's results away and build them again with snakemake"
    )
    if evidence.attempts.is_missing:
        yield Finding(Status.MISSING, path, "found no ledger, expected every attempt of the study in it", remedy)
    broken = evidence.attempts.broken
    if broken is not None:
        found = f"line {broken.line}: {broken.problem}: a line before it was edited, added, removed or moved"
        yield Finding(Status.ALTERED, path, found, remedy)


def stranger_findings(evidence: Evidence, strangers: Mapping[Path, str]) -> Iterator[Finding]:
    """Lines of the ledger that tell of no attempt, and files in results/ that no job made, each with what it is."""
    ledger = evidence.lineage.shown(evidence.lineage.study / LEDGER)
    if odd := evidence.attempts.odd:
        lines = ", ".join(map(str, odd))
        found = f"found no attempt in line {lines}: a job died while it wrote, or somebody else wrote"
        remedy = f"look at it; if nobody killed a job, put {ledger} back from a backup"
        yield Finding(Status.STRANGE, ledger, found, remedy)
    for path, what in strangers.items():
        shown = evidence.lineage.shown(path)
        yield Finding(Status.STRANGE, shown, what, f"believe nothing in it; move {shown} away or build it again")


def file_findings(evidence: Evidence, path: Path) -> Iterator[Finding]:
    """What is wrong with one file in the way of a number."""
    lineage, now, shown = evidence.lineage, evidence.now[path], evidence.lineage.shown(path)
    maker = lineage.makers.get(path)
    again = f"snakemake --cores 2 --force {shown}"
    if now.is_missing:
        who = f"what {maker.manifest.verb} made" if maker else _wanted_by(lineage, path)
        yield Finding(Status.MISSING, shown, f"found nothing there, expected {who}", f"snakemake --cores 2 {shown}")
    elif now.problem:
        found = f"found {now.problem}, expected a file or folder"
        yield Finding(Status.ALTERED, shown, found, f"remove it; then: {again}")
    elif maker:
        recorded = maker.outputs[path]
        if now.sha256 != recorded.sha256:
            expected = f"expected {recorded.sha256[:12]} as {maker.manifest.verb} recorded"
            yield Finding(Status.ALTERED, shown, f"found {_described(evidence, path, recorded)}, {expected}", again)
    elif not _has_no_maker(lineage, path):
        yield _untracked(evidence, path)
    elif not _is_config(lineage, path):
        yield from _against_readers(evidence, path)


def job_findings(evidence: Evidence, job: Job) -> Iterator[Finding]:
    """What is wrong with one job: its manifest, what it read, what it ran on."""
    lineage, place = evidence.lineage, evidence.lineage.shown(job.path)
    product = lineage.shown(next(iter(job.outputs), job.path))
    if reason := manifest_fault(evidence, job):
        yield Finding(Status.ALTERED, place, reason, f"snakemake --cores 2 --force {product}")
    changes = [*_other_inputs(evidence, job), *evidence.changes.get(job.path, ())]
    if changes:
        yield Finding(Status.STALE, product, "; ".join(changes), f"snakemake --cores 2 {product}")
    git = job.manifest.git
    if git.dirty or git.commit is None:
        found = f"commit {git.commit[:12]} with uncommitted changes" if git.commit else f"no commit ({git.why})"
        yield Finding(
            Status.DIRTY, product, f"made from {found}", f"commit; then: snakemake --cores 2 --force {product}"
        )
    if unpinned := unpinned_packages(job):
        remedy = f"make the environment again from envs/; then: snakemake --cores 2 --force {product}"
        yield Finding(Status.UNPINNED, product, f"made with {', '.join(unpinned)}", remedy)


def unreadable_findings(evidence: Evidence) -> Iterator[Finding]:
    """Manifests that are none."""
    for path, reason in evidence.lineage.unreadable.items():
        place = evidence.lineage.shown(path)
        newest = evidence.attempts.newest.get(evidence.lineage.place(path), {})
        is_old = newest.get("manifest_sha256") == evidence.now[path].sha256
        status = Status.STALE if is_old else Status.ALTERED
        found = f"{reason.partition(', expected')[0]}{': written by another version of the code' if is_old else ''}"
        yield Finding(status, place, found, f"remove {place} and what stands beside it; then: snakemake --cores 2")


def unpinned_packages(job: Job) -> list[str]:
    """Packages that ran in another version than envs/ pins for the job's step; `+cpu` and the like do not count."""
    installed = job.manifest.installed
    pairs = ((name, installed.packages.get(name), pin) for name, pin in installed.pinned.items())
    return [
        f"{name} {found} (pinned {pin})"
        for name, found, pin in pairs
        if found and found != pin and found.partition("+")[0] != pin
    ]


def _against_readers(evidence: Evidence, path: Path) -> Iterator[Finding]:
    """A file that no job made, as run.json or raw data: it must be what its readers read, and what config/ says."""
    lineage, now, shown = evidence.lineage, evidence.now[path], evidence.lineage.shown(path)
    again = f"snakemake --cores 2 --force {shown}"
    for job, content in lineage.readings.get(path, ()):
        if content.sha256 != now.sha256:
            expected = f"expected {content.sha256[:12]} as {job.manifest.verb} read it for {lineage.shown(job.path)}"
            yield Finding(Status.ALTERED, shown, f"found {_described(evidence, path, content)}, {expected}", again)
            return
    if differences := evidence.described.get(path):
        found = f"config/ says otherwise now: {'; '.join(differences)}"
        yield Finding(Status.STALE, shown, found, "snakemake --cores 2")


def _other_inputs(evidence: Evidence, job: Job) -> Iterator[str]:
    """Inputs that are whole, but not what this job read: they were made again, and this was not."""
    lineage = evidence.lineage
    for path, content in job.inputs.items():
        now, maker = evidence.now.get(path), lineage.makers.get(path)
        is_whole = maker is not None and now is not None and maker.outputs[path].sha256 == now.sha256
        if now and now.sha256 != content.sha256 and (is_whole or path in lineage.jobs):
            read, is_now = content.sha256[:12], (now.sha256 or "gone")[:12]
            yield f"{lineage.shown(path)} was {read} when {job.manifest.verb} read it, and is {is_now} now"


def _described(evidence: Evidence, path: Path, recorded: Content) -> str:
    """What stands there, as far as it can be told from a hash, its kind and its size."""
    now = evidence.now[path]
    kind = "folder" if path.is_dir() else "file"
    if kind != recorded.kind:
        return f"a {kind} in the place of a {recorded.kind}"
    twins = [twin for twin, job in evidence.lineage.makers.items() if job.outputs[twin].sha256 == now.sha256]
    twin = f", the content of {evidence.lineage.shown(twins[0])}" if twins else ""
    size = "" if now.bytes == recorded.bytes else f" ({now.bytes:,} bytes, not {recorded.bytes:,})"
    return f"SHA-256 {(now.sha256 or '')[:12]}{twin}{size}"


def _untracked(evidence: Evidence, path: Path) -> Finding:
    shown, manifest = evidence.lineage.shown(path), supposed_manifest(evidence, path)
    told = f"; by the ledger that is {evidence.lineage.shown(manifest)}" if manifest else ""
    found = f"found a file that no manifest made, expected one beside it{told}"
    return Finding(Status.UNTRACKED, shown, found, f"snakemake --cores 2 --force {shown}")


def supposed_manifest(evidence: Evidence, path: Path) -> Path | None:
    """A manifest that is gone or not its own, and whose attempt, by the ledger, named the file or its folder."""
    lineage, places = evidence.lineage, [path]
    places += [path.parent] if path.parent != lineage.study else []
    named = tuple(f"/{lineage.place(place)}" for place in places)
    for start in reversed(evidence.attempts.starts.values()):
        manifest = lineage.study / str(start.get("manifest"))
        is_good = manifest in lineage.jobs and not manifest_fault(evidence, lineage.jobs[manifest])
        if not is_good and any(str(word).endswith(named) for word in start.get("command", ())):
            return manifest
    return None


def manifest_fault(evidence: Evidence, job: Job) -> str | None:
    """Why the manifest is not the one that its attempt wrote."""
    now = evidence.now[job.path]
    if now.sha256 is None:
        return f"found {now.problem or 'nothing'}, expected a file"
    if evidence.attempts.is_missing:
        return None
    return fault(evidence.attempts, evidence.lineage.place(job.path), job.manifest, now.sha256)


def _has_no_maker(lineage: Lineage, path: Path) -> bool:
    """Whether no verb makes such a file: run.json is written by a rule, manifests by all, the rest lies outside."""
    return path.name == "run.json" or path.name.endswith(ENDING) or not path.is_relative_to(lineage.study)


def _is_config(lineage: Lineage, path: Path) -> bool:
    """Whether it is judged by the values in it, which `changes` are about, and not by its bytes."""
    return path.is_relative_to(lineage.project / "config") or path.name.endswith(ENDING)


def _wanted_by(lineage: Lineage, path: Path) -> str:
    verbs = sorted({reading.job.manifest.verb for reading in lineage.readings.get(path, ())})
    return f"what {' and '.join(verbs)} read" if verbs else "it: config/config.yaml asks for it"


def kind_of(path: Path) -> str:
    """What a file is, in a word of the paper or of the workflow, for counting."""
    if path.name.endswith(ENDING):
        return "manifests"
    by_name = {
        "run.json": "recipes (run.json)",
        "model": "models",
        "candidates": "models validated on the way",
        "metrics.jsonl": "metrics",
        "timing.jsonl": "timings",
        "tensorboard": "TensorBoard events",
        "validation.jsonl": "validation answers",
        "validation.json": "validation scores",
        "chosen.json": "choices",
        "answers.jsonl": "answers",
        "scores.json": "scores",
    }
    by_folder = {"traces": "expert traces", "problems": "problems", "benchmarks": "benchmark problems"}
    if path.name in by_name:
        return by_name[path.name]
    if path.parent.name in by_folder and path.parent.parent.name == "data":
        return by_folder[path.parent.name] if path.suffix == ".jsonl" else "counts of data"
    if path.parent.parent.name == "results":
        return "tables, figures, page"
    return "settings" if re.search(r"\.ya?ml$", path.name) else "other"


# --- proof ---------------------------------------------------------------------------------------

# Every link behind some files, checked in causal order: what came first is judged first. Reads files, writes none.

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

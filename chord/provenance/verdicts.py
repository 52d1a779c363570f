"""What is wrong with the links of a lineage: altered, missing, stale, untracked; or to be known: dirty, unpinned.

A file is what its maker recorded, else it is altered. A job is stale if it read other bytes than its input has now, or
if code, settings or pins are others now. Knows hashes and manifests; knows no config, no tables.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from chord.provenance.attempts import Attempts, fault
from chord.provenance.lineage import ENDING, Job, Lineage
from chord.provenance.manifest_parts import Content
from chord.provenance.rehash import Now

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

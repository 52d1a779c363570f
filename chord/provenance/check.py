"""Is a file what its maker wrote, and would today's code and settings write it again?

Snakemake asks through `survey` before each run, and trusts the times of files that were read before. `chord audit`
asks the same `Check` with the ledger, and reads every byte. `chord why` and the page tell what they find.
"""

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from chord.errors import UserError
from chord.provenance.changes import Change, Today, differences
from chord.provenance.digest import PROJECT, package_of
from chord.provenance.ledger import LEDGER, Attempts, fault
from chord.provenance.lineage import Hasher, Job, Lineage, Now, read_lineage
from chord.provenance.manifest import ENDING, Content

SHOWN_LINES = 12
READ = Path(".snakemake", "read")  # in the project, by study: hashes of what was read, see `Hasher`


class Status(StrEnum):
    """What is said of a file or a job. The bad ones come first: a number that stands on such a file is not proven."""

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
        """Whether it breaks the chain; other findings are remarks."""
        return self in (Status.ALTERED, Status.MISSING, Status.STALE, Status.UNTRACKED)


class Finding(NamedTuple):
    """One thing that is not as it should be: where (relative to the project), what was found, what to do."""

    status: Status
    path: str
    found: str
    remedy: str

    @property
    def clause(self) -> str:
        """What was found, said of the job."""
        return self.found if self.status is Status.STALE else f"{Path(self.path).name}: {self.found}"


@dataclass
class Check:
    """Judges files and jobs of a lineage. Each file is hashed once, when it is first asked about.

    `today`: what the project says now; None where that is not known, then nothing is stale. `attempts`: the ledger;
    None where it is not asked. `scope`: the files that count; None for all. `blames_readers`: whether a job that read a
    file is stale where that file is not what its own maker wrote; else only the file is at fault.
    """

    lineage: Lineage
    hasher: Hasher
    today: Today | None = None
    attempts: Attempts | None = None
    scope: Container[Path] | None = None
    blames_readers: bool = False
    _now: dict[Path, Now] = field(default_factory=dict[Path, Now])

    def now(self, path: Path) -> Now:
        """What the path holds now."""
        if path not in self._now:
            maker, readings = self.lineage.makers.get(path), self.lineage.readings.get(path)
            recorded = maker.outputs[path] if maker else readings[0].content if readings else None
            self._now[path] = self.hasher.now(path, recorded.sha256 if recorded else None)
        return self._now[path]

    # --- jobs ------------------------------------------------------------------------------------

    def job(self, job: Job) -> Iterator[Finding]:
        """What is wrong with a job: its manifest, what decided it and is other now, what it read, what it ran on."""
        product = self.lineage.shown(next(iter(job.outputs), job.path))
        again = f"snakemake --cores 2 --force {product}"
        if reason := self.manifest_fault(job):
            yield Finding(Status.ALTERED, self.lineage.shown(job.path), reason, again)
        for change in (*self._decided_otherwise(job), *self._other_inputs(job)):
            yield Finding(Status.STALE, product, str(change), f"snakemake --cores 2 {product}")
        git = job.manifest.git
        if git.dirty or git.commit is None:
            found = f"commit {git.commit[:12]} with uncommitted changes" if git.commit else f"no commit ({git.why})"
            yield Finding(Status.DIRTY, product, f"made from {found}", f"commit; then: {again}")
        if unpinned := unpinned_packages(job):
            remedy = f"make the environment again from envs/; then: {again}"
            yield Finding(Status.UNPINNED, product, f"made with {', '.join(unpinned)}", remedy)

    def _decided_otherwise(self, job: Job) -> list[Change]:
        """What of code, settings, pins and command is not as it was when the job ran."""
        key, results = self.lineage.place(job.path), self.lineage.shown(self.lineage.study)
        return self.today.changes(key, job.manifest, results) if self.today else []

    def _other_inputs(self, job: Job) -> Iterator[Change]:
        """Inputs that are there and are not what the job read."""
        for path, content in self.changed_inputs(job).items():
            now = self.now(path)
            if (self.blames_readers or self.is_whole(path) or path in self.lineage.jobs) and not now.is_missing:
                is_now = now.sha256[:12] if now.sha256 else str(now.problem)
                yield Change("input", content.path, content.sha256[:12], is_now)

    def changed_inputs(self, job: Job) -> dict[Path, Content]:
        """The inputs in scope that are gone or not what the job read."""
        inputs = job.inputs.items()
        counted = {path: content for path, content in inputs if self.scope is None or path in self.scope}
        return {path: content for path, content in counted.items() if self.now(path).sha256 != content.sha256}

    def manifest_fault(self, job: Job) -> str | None:
        """Why the manifest is not the one that its attempt wrote."""
        if self.attempts is None:
            return None
        now = self.now(job.path)
        if now.sha256 is None:
            return f"found {now.problem or 'nothing'}, expected a file"
        if self.attempts.is_missing:
            return None
        return fault(self.attempts, self.lineage.place(job.path), job.manifest, now.sha256)

    def supposed_manifest(self, path: Path) -> Path | None:
        """A manifest that is gone or not its own, and whose attempt, by the ledger, named the file or its folder."""
        lineage, places = self.lineage, [path]
        places += [path.parent] if path.parent != lineage.study else []
        named = tuple(f"/{lineage.place(place)}" for place in places)
        for manifest, words in self._supposed:
            if any(word.endswith(named) for word in words):
                return manifest
        return None

    @cached_property
    def _supposed(self) -> list[tuple[Path, list[str]]]:
        """By the ledger, manifests that are gone or not their own, the newest first, with their commands."""
        starts = [*reversed(self.attempts.starts.values())] if self.attempts else []
        jobs = {self.lineage.place(path): job for path, job in self.lineage.jobs.items()}
        good = {place for place, job in jobs.items() if not self.manifest_fault(job)}
        found = [(str(start.get("manifest")), start.get("command", ())) for start in starts]
        return [(self.lineage.study / name, [*map(str, words)]) for name, words in found if name not in good]

    def unreadable(self) -> Iterator[Finding]:
        """Manifests that are none."""
        for path, reason in self.lineage.unreadable.items():
            shown = self.lineage.shown(path)
            newest = self.attempts.newest.get(self.lineage.place(path), {}) if self.attempts else {}
            is_old = newest.get("manifest_sha256") == self.now(path).sha256
            found = f"{reason}{': written by another version of the code' if is_old else ''}"
            remedy = f"remove {shown} and what stands beside it; then: snakemake --cores 2"
            yield Finding(Status.STALE if is_old else Status.ALTERED, shown, found, remedy)

    # --- files -----------------------------------------------------------------------------------

    def is_whole(self, path: Path) -> bool:
        """Whether a job made it, and it holds what the job recorded."""
        maker = self.lineage.makers.get(path)
        return self.now(path).sha256 == (maker.outputs[path].sha256 if maker else "")

    def file(self, path: Path) -> Iterator[Finding]:
        """What is wrong with one file."""
        lineage, now, shown = self.lineage, self.now(path), self.lineage.shown(path)
        maker = lineage.makers.get(path)
        again = f"snakemake --cores 2 --force {shown}"
        if now.is_missing:
            who = f"what {maker.manifest.verb} made" if maker else self._wanted_by(path)
            yield Finding(Status.MISSING, shown, f"found nothing there, expected {who}", f"snakemake --cores 2 {shown}")
        elif now.problem:
            found = f"found {now.problem}, expected a file or folder"
            yield Finding(Status.ALTERED, shown, found, f"remove it; then: {again}")
        elif maker:
            recorded = maker.outputs[path]
            if now.sha256 != recorded.sha256:
                expected = f"expected {recorded.sha256[:12]} as {maker.manifest.verb} recorded"
                yield Finding(Status.ALTERED, shown, f"found {self._described(path, recorded)}, {expected}", again)
        elif path.is_relative_to(lineage.study) and path.name != "run.json" and not path.name.endswith(ENDING):
            manifest = self.supposed_manifest(path)
            told = f"; by the ledger that is {lineage.shown(manifest)}" if manifest else ""
            found = f"found a file that no manifest made, expected one beside it{told}"
            yield Finding(Status.UNTRACKED, shown, found, again)
        # Of config/ and of manifests the values are judged, with the jobs that they decide, and not the bytes.
        elif not path.is_relative_to(lineage.project / "config") and not path.name.endswith(ENDING):
            yield from self._without_maker(path)

    def _without_maker(self, path: Path) -> Iterator[Finding]:
        """A file that no verb made, as run.json or raw data: it must be what its readers read, and what today says."""
        shown = self.lineage.shown(path)
        for job, content in self.lineage.readings.get(path, ()):
            if content.sha256 != self.now(path).sha256:
                expected = f"expected {content.sha256[:12]} as {job.manifest.verb} read it for"
                found = f"found {self._described(path, content)}, {expected} {self.lineage.shown(job.path)}"
                yield Finding(Status.ALTERED, shown, found, f"snakemake --cores 2 --force {shown}")
                return
        yield from self.recipe(path)

    def recipe(self, path: Path) -> Iterator[Finding]:
        """How a run.json differs from what the project says now; nothing for any other file."""
        if self.today is None or not path.is_relative_to(self.lineage.study):
            return
        text = self.today.text(self.lineage.place(path))
        if text is not None and os.path.lexists(path):
            for change in _text_changes(path, text):
                yield Finding(Status.STALE, self.lineage.shown(path), str(change), "snakemake --cores 2")

    def _described(self, path: Path, recorded: Content) -> str:
        """What the path holds, as far as its hash, kind and size tell."""
        now, makers = self.now(path), self.lineage.makers
        kind = "folder" if path.is_dir() else "file"
        if kind != recorded.kind:
            return f"a {kind} in the place of a {recorded.kind}"
        twins = [self.lineage.shown(twin) for twin, job in makers.items() if job.outputs[twin].sha256 == now.sha256]
        twin = f", the content of {twins[0]}" if twins else ""
        size = "" if now.bytes == recorded.bytes else f" ({now.bytes:,} bytes, not {recorded.bytes:,})"
        return f"SHA-256 {(now.sha256 or '')[:12]}{twin}{size}"

    def _wanted_by(self, path: Path) -> str:
        verbs = sorted({reading.job.manifest.verb for reading in self.lineage.readings.get(path, ())})
        return f"what {' and '.join(verbs)} read" if verbs else "it: config/config.yaml asks for it"

    # --- the study -------------------------------------------------------------------------------

    def ledger(self) -> Iterator[Finding]:
        """What is wrong with the ledger as a whole."""
        if self.attempts is None:
            return
        path = self.lineage.shown(self.lineage.study / LEDGER)
        remedy = (
            f"put {path} back from a backup; without one nothing here can be proven:"
            " move the study's results away and build them again with snakemake"
        )
        if self.attempts.is_missing:
            yield Finding(Status.MISSING, path, "found no ledger, expected every attempt of the study in it", remedy)
        if broken := self.attempts.broken:
            found = f"line {broken.line}: {broken.problem}: a line before it was edited, added, removed or moved"
            yield Finding(Status.ALTERED, path, found, remedy)

    def strangers(self, files: Mapping[Path, str]) -> Iterator[Finding]:
        """Lines of the ledger that belong to no attempt, and files that no job made, each with what it is."""
        if self.attempts and (odd := self.attempts.odd):
            path = self.lineage.shown(self.lineage.study / LEDGER)
            lines = ", ".join(map(str, odd))
            found = f"found no attempt in line {lines}: a job died while it wrote, or somebody else wrote"
            remedy = f"look at it; if nobody killed a job, put {path} back from a backup"
            yield Finding(Status.STRANGE, path, found, remedy)
        for file, what in files.items():
            shown = self.lineage.shown(file)
            yield Finding(Status.STRANGE, shown, what, f"believe nothing in it; move {shown} away or build it again")


def unpinned_packages(job: Job) -> list[str]:
    """Packages that ran in another version than envs/ pins for the job's step; `+cpu` and the like do not count."""
    installed = job.manifest.installed
    pairs = ((name, installed.packages.get(name), pin) for name, pin in installed.pinned.items())
    return [
        f"{name} {found} (pinned {pin})"
        for name, found, pin in pairs
        if found and found != pin and found.partition("+")[0] != pin
    ]


def _text_changes(path: Path, text: str) -> list[Change]:
    try:
        found = path.read_text("utf-8", errors="replace").rstrip("\n")
        if found == text:
            return []
        by_hand = Change("output", path.name, "as written", "laid out otherwise, by hand")
        return differences("settings", json.loads(found), json.loads(text)) or [by_hand]
    except OSError as error:
        return [Change("output", path.name, "the recipe as JSON", f"no way to read it: {error.strerror}")]
    except (ValueError, RecursionError):
        return [Change("output", path.name, "the recipe as JSON", "text that is not JSON")]


# --- before each run of Snakemake ----------------------------------------------------------------


def survey(study: Path, today: Today) -> dict[str, list[Finding]]:
    """What in results/STUDY is not what its maker wrote or would be written otherwise today, by manifest or run.json.

    Files that are not there are no finding, but for outputs of a job whose manifest is. Changes nothing below results/.
    Raises UserError for a folder that is a link to nothing, as where a disk is not mounted.
    """
    _refuse_links_to_nothing({(study / key).parent for key in (*today.run_texts, *today.specs)})
    lineage = read_lineage(study, today.specs)
    read = lineage.project / READ
    hasher = Hasher(lineage.study, quick=True, kept=read / f"{study.name}.json")
    code = read / "code.json"
    check = Check(lineage, hasher, replace(today, kept=code), blames_readers=True)
    recipes = [key for key in dict.fromkeys([*today.run_texts, *today.told]) if os.path.lexists(lineage.study / key)]
    stale = {key: [*check.recipe(lineage.study / key)] for key in recipes}
    stale |= {lineage.place(path): [] for path in (*lineage.jobs, *lineage.unreadable)}
    for finding in check.unreadable():
        stale[lineage.place(lineage.project / finding.path)].append(finding)
    for path, job in lineage.jobs.items():
        found = [finding for output in job.outputs for finding in check.file(output)]
        found += [finding for finding in check.job(job) if finding.status.is_bad]
        stale[lineage.place(path)] += found
    hasher.keep()
    if lineage.jobs:
        package_of(str(PROJECT), "chord", code).keep()
    return {key: found for key, found in stale.items() if found}


def _refuse_links_to_nothing(folders: Iterable[Path]) -> None:
    for folder in sorted({above for one in folders for above in (one, *one.parents)}):
        if folder.is_symlink() and not folder.exists():
            found = f"found a link to {os.readlink(folder)}, where there is nothing"
            raise UserError(f"{folder}: {found}, expected a folder; mount its disk, or remove the link")


def summary(stale: Mapping[str, list[Finding]]) -> list[str]:
    """A line for each thing that changed, with how many jobs it makes stale."""
    jobs: dict[str, list[str]] = {}
    for key, found in stale.items():
        for finding in found:
            jobs.setdefault(finding.clause, []).append(key.removesuffix(ENDING))
    lines = list[str]()
    for clause, keys in list(jobs.items())[:SHOWN_LINES]:
        more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
        lines.append(f"stale: {clause} ({', '.join(keys[:2])}{more})")
    if len(jobs) > SHOWN_LINES:
        lines.append(f"stale: {len(jobs) - SHOWN_LINES} changes more; `chord why TARGET` tells all")
    return lines

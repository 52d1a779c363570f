"""Which file came from which: the manifests of a study as a graph. Hashes nothing and judges nothing."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from chord.provenance.files import UserError
from chord.provenance.hashing import files_below
from chord.provenance.ledger import ledger_for
from chord.provenance.manifest import Manifest, locate, read_manifest
from chord.provenance.manifest_parts import Content

ENDING = ".manifest.json"


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

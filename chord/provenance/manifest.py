"""The parts of a manifest: files as they were, code, git, the attempt, what was installed. Reads and writes nothing."""

import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from chord.errors import UserError
from chord.provenance import environment as env
from chord.provenance import ledger as ledgers
from chord.provenance.cli import Terminated
from chord.provenance.digest import PROJECT, Uses, job_code
from chord.provenance.files import content_hash, files_below, size_bytes, this_process, write_atomically
from chord.reach import decides_nothing

# --- manifest parts ------------------------------------------------------------------------------

Root = Literal["study", "project", "code", "elsewhere"]


class Part(BaseModel):
    """Base of all parts of a manifest: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Content(Part):
    """A file or folder as it was. `path` is relative to `root`, so that it holds after a move; see `locate`."""

    path: str
    root: Root = Field(description="study: results/STUDY; project: what holds results/; code: what holds chord/")
    kind: Literal["file", "folder"]
    bytes: int
    sha256: str = Field(description="of the file's bytes; for a folder the Merkle root over its entries")


class Code(Part):
    """The code that this job can reach; see `chord.provenance.digest`."""

    digest: str
    uses: dict[str, tuple[str, ...]] = Field(description="of each plug point, the entries that the job uses")
    definitions: dict[str, str] = Field(description="of each module, names and contents of what is reached; to tell")


class Git(Part):
    """State of the project's checkout when the verb began; `why` says why there is no commit."""

    commit: str | None
    dirty: bool | None
    diff_sha256: str | None
    untracked: int | None
    why: str | None


class Attempt(Part):
    """Which line of the study's ledger this is; no line where the verb ran outside of a study."""

    id: str
    ledger_line_sha256: str | None
    host: str
    pid: int
    job: str | None = Field(description="Slurm job id")


class Installed(Part):
    """Python and packages; `all_sha256` is over name and version of everything installed."""

    python: str
    packages: dict[str, str]
    all_sha256: str
    pinned: dict[str, str] = Field(description="what envs/STEP.txt pins for this step, version by package")
    pins: dict[str, str] = Field(description="SHA-256 of each envs/*.txt")


# --- manifest ------------------------------------------------------------------------------------

# What a verb did, beside what it made: command, code, git, environment, seeds, and a hash of all it read and wrote.
#
# `Manifest.recording` wraps the work of a verb. Its last act is the manifest; how the attempt began and ended is in the
# study's ledger, also when it failed. The wall clock is in manifest and ledger and nowhere else.

FORMAT = "chord-manifest-3"
ENDING = ".manifest.json"  # of the names of manifests
_PLAIN = TypeAdapter(dict[str, Any])


class JobSpec(NamedTuple):
    """What decides a job beside its inputs; `chord.steps` says it of each kind of job."""

    verb: str
    step: str = ""  # whose pins hold: envs/STEP.txt
    decided_by: Mapping[str, Any] = MappingProxyType({})
    uses: Uses = MappingProxyType({})  # entries of plug points, see `job_code`


@decides_nothing("it records what a job read, ran on and wrote")
class Manifest(Part):
    """What one verb read, ran on and wrote. Written last, so where it stands the outputs are whole."""

    format: Literal["chord-manifest-3"]
    verb: str
    step: str = Field(description="whose pins hold: envs/STEP.txt")
    decided_by: dict[str, JsonValue] = Field(description="the part of config/ that decides the outputs; no labels")
    command: tuple[str, ...]
    folder: str = Field(description="working folder of the command, relative to the project where it lies in it")
    started: str
    ended: str
    seconds: float
    attempt: Attempt
    code: Code
    git: Git
    installed: Installed
    machine: dict[str, str | int]
    environment: dict[str, str]
    seeds: dict[str, int]
    inputs: dict[str, Content]
    outputs: dict[str, Content]
    extra: dict[str, JsonValue]

    @classmethod
    def recording(
        cls,
        path: Path,
        job: JobSpec,
        *,
        inputs: Mapping[str, Path],
        outputs: Mapping[str, Path],
        seeds: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
        ledger: Path | None = None,
    ) -> "AbstractContextManager[Recording]":
        """A block of work whose manifest is written to `path` when it ends well, and whose end the ledger learns.

        Inputs are hashed when the block begins, outputs when it ends; an input that changed meanwhile is an error.
        `ledger` is found from `path` unless given. A block left by an exception, by a signal or by `sys.exit` (also 0:
        work to be continued) writes no manifest. One process of a group records.
        """
        decided = as_plain(job.decided_by)
        recording = Recording(
            path, job.verb, job.step, decided, dict(inputs), dict(outputs), dict(seeds or {}), dict(extra or {})
        )
        return _recorded(recording, ledger or ledgers.ledger_for(path), job.uses)


@dataclass
class Recording:
    """What a verb may still add while it works: `seeds` and `extra` (device, counts, resumed-from, ...)."""

    path: Path
    verb: str
    step: str
    decided_by: dict[str, Any]
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    seeds: dict[str, int]
    extra: dict[str, Any]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the block began."""
        return round(time.monotonic() - self.clock, 3)


@decides_nothing("it records")
def as_plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON would give it back: records become mappings, tuples become lists."""
    return json.loads(_PLAIN.dump_json(dict(value)))


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises UserError for a missing, damaged or foreign one."""
    expected = "expected the manifest of a verb; run the verb again"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: found no such file, {expected}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: found a folder, {expected}") from None
    except OSError as error:
        raise UserError(f"{path}: found no way to read it ({error.strerror}), {expected}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: found {place + ': ' if place else ''}{first['msg']}, {expected}") from None


def locate(content: Content, manifest: Path) -> Path:
    """Where a recorded file is now, seen from where its manifest is now."""
    return roots_of(manifest).get(content.root, Path()) / content.path


# --- recording ---------------------------------------------------------------------------------


@contextmanager
def _recorded(recording: Recording, ledger: Path | None, uses: Uses) -> Iterator[Recording]:
    attempt = _begin(recording, ledger)
    try:
        before = _before(recording, attempt, uses)
        stamps = {name: _stamp(path) for name, path in recording.inputs.items()}
        yield recording
        for name, path in recording.inputs.items():
            if _stamp(path) != stamps[name] and content_hash(path) != before["inputs"][name].sha256:
                raise UserError(f"{path}: found it changed while {recording.verb} ran, expected it still; run it again")
        text = _finished(recording, before)
        write_atomically(recording.path, text)
        try:
            _end(ledger, attempt, recording, {"outcome": "ok", "manifest_sha256": sha256(text.encode()).hexdigest()})
        except BaseException:
            recording.path.unlink(missing_ok=True)
            raise
    except BaseException as error:
        try:
            _end(ledger, attempt, recording, _outcome(error))
        except OSError as second:
            print(f"{recording.verb}: {ledger}: the end of this attempt was not recorded: {second}", file=sys.stderr)
        raise


def _begin(recording: Recording, ledger: Path | None) -> Attempt:
    me = this_process()
    attempt = Attempt(
        id=uuid.uuid4().hex, ledger_line_sha256=None, host=me.host, pid=me.pid, job=os.environ.get("SLURM_JOB_ID")
    )
    if ledger is None:
        return attempt
    line = {
        "attempt": attempt.id,
        "verb": recording.verb,
        "manifest": _place(recording.path, recording.path)[1],
        "command": command_of(recording.verb),
        **attempt.model_dump(include={"host", "pid", "job"}),
    }
    return attempt.model_copy(update={"ledger_line_sha256": ledgers.append(ledger, "start", line)})


def _end(ledger: Path | None, attempt: Attempt, recording: Recording, outcome: Mapping[str, Any]) -> None:
    if ledger is not None:
        ledgers.append(ledger, "end", {"attempt": attempt.id, "seconds": recording.seconds, **outcome})


def _outcome(error: BaseException) -> dict[str, Any]:
    """How an attempt ended that made no manifest."""
    if isinstance(error, Terminated):
        return {"outcome": "signal", "signal": error.signal}
    if isinstance(error, KeyboardInterrupt):
        return {"outcome": "signal", "signal": "SIGINT"}
    if isinstance(error, SystemExit):
        return {"outcome": "stopped", "exit_code": error.code if isinstance(error.code, int) else str(error.code)}
    said = env.scrubbed(" ".join(str(error).split()))
    return {"outcome": "failed", "error": f"{type(error).__name__}: {said}"[:500]}


def _before(recording: Recording, attempt: Attempt, uses: Uses) -> dict[str, Any]:
    """What is known when the work begins, as fields of Manifest."""
    code = job_code(recording.verb, uses)
    named = {name: tuple(some) for name, some in uses.items()}
    return {
        "attempt": attempt,
        "code": Code(digest=code.digest, uses=named, definitions=code.definitions),
        "git": Git(**env.git_state(PROJECT)),
        "inputs": {name: _content(path, recording.path) for name, path in recording.inputs.items()},
    }


def _finished(recording: Recording, before: Mapping[str, Any]) -> str:
    """The text of the manifest; hashes the outputs."""
    made = {name: _content(path, recording.path) for name, path in recording.outputs.items()}
    manifest = Manifest(
        format=FORMAT,
        verb=recording.verb,
        step=recording.step,
        decided_by=recording.decided_by,
        command=tuple(command_of(recording.verb)),
        folder=_place(Path.cwd(), recording.path)[1],
        started=recording.started.isoformat(timespec="milliseconds"),
        ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=recording.seconds,
        installed=Installed(
            python=platform.python_version(),
            packages=env.key_packages(),
            all_sha256=env.packages_sha256(),
            pinned=env.pinned(PROJECT, recording.step),
            pins=env.pins(PROJECT),
        ),
        machine=env.machine(),
        environment=env.environment(),
        seeds=recording.seeds,
        outputs=made,
        extra=env.scrubbed(recording.extra),
        **before,
    )
    return json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def command_of(verb: str) -> list[str]:
    """How this process was started, in words that hold on another machine: no interpreter, no folder of the project."""
    return ["python", "-m", *verb.split(), *env.scrubbed_command(sys.argv[1:])]


def _content(path: Path, manifest: Path) -> Content:
    root, place = _place(path, manifest)
    kind = "folder" if path.is_dir() else "file"
    return Content(path=place, root=root, kind=kind, sha256=content_hash(path), bytes=size_bytes(path))


def _stamp(path: Path) -> tuple[int, ...]:
    """Differs after any write to a file or change of a folder; cheap, and only a reason to look closer."""
    files = [*files_below(path)] if path.is_dir() else []
    stats = [one.stat() for one in (path, *dict.fromkeys(file.parent for file in files), *files) if one.exists()]
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns, stat.st_ino))


def _place(path: Path, manifest: Path) -> tuple[Root, str]:
    """The nearest known root above `path`, and the way from there; the whole path if there is none."""
    for root, folder in roots_of(manifest).items():
        if path.absolute().is_relative_to(folder):
            return root, path.absolute().relative_to(folder).as_posix()
    return "elsewhere", str(path.absolute())


def roots_of(manifest: Path) -> dict[Root, Path]:
    """Where the roots of recorded paths are now, seen from a manifest; there is none for `elsewhere`."""
    ledger = ledgers.ledger_for(manifest)
    if ledger is None:
        return {"code": PROJECT}
    study = ledger.parent.parent
    return {"study": study, "project": study.parent.parent, "code": PROJECT}

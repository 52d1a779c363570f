"""What a verb did, beside what it made: command, code, git, environment, seeds, and a hash of all it read and wrote.

`Manifest.recording` wraps the work of a verb. Its last act is the manifest; how the attempt began and ended is in the
study's ledger, also when it failed. The wall clock is in manifest and ledger and nowhere else.
"""

import json
import os
import platform
import resource
import sys
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    pinned: dict[str, str] = Field(description="what envs/ pins for this step, version by package")
    pins: dict[str, str] = Field(description="SHA-256 of each envs/*.txt")


FORMAT = "chord-manifest-3"
ENDING = ".manifest.json"  # of the names of manifests
_PLAIN = TypeAdapter(dict[str, Any])


class JobSpec(NamedTuple):
    """What decides a job beside its inputs; `chord.steps` says it of each kind of job."""

    verb: str
    step: str = ""  # whose pins hold: envs/STEP.txt; of several, joined by `+`, those of all
    decided_by: Mapping[str, Any] = MappingProxyType({})
    uses: Uses = MappingProxyType({})  # entries of plug points, see `job_code`


@decides_nothing("it records what a job read, ran on and wrote")
class Manifest(Part):
    """What one verb read, ran on and wrote. Written last, so where it stands the outputs are whole."""

    format: Literal["chord-manifest-3"]
    verb: str
    step: str = Field(description="whose pins hold: envs/STEP.txt; of several, joined by `+`, those of all")
    decided_by: dict[str, JsonValue] = Field(description="the part of config/ that decides the outputs; no labels")
    command: tuple[str, ...]
    folder: str = Field(description="working folder of the command, relative to the project where it lies in it")
    started: str
    ended: str
    seconds: float
    cpu_seconds: float | None = Field(None, description="of the process and of what it waited for, from its start")
    peak_memory_mb: float | None = Field(None, description="the most that one of these held, 10^6 bytes")
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
    @contextmanager
    def recording(
        cls,
        path: Path,
        job: JobSpec,
        *,
        inputs: Mapping[str, Path],
        outputs: Mapping[str, Path],
        seeds: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> "Generator[Recording]":
        """A block of work whose manifest is written to `path` when it ends well, and whose end the ledger learns.

        Inputs are hashed when the block begins, outputs when it ends; an input that changed meanwhile is an error.
        A block left by an exception, by a signal or by `sys.exit` (also 0: work to be continued) writes no manifest.
        One process of a group records.
        """
        decided, uses = as_plain(job.decided_by), {name: tuple(some) for name, some in job.uses.items()}
        recording = Recording(dict(seeds or {}), dict(extra or {}))
        started, clock = datetime.now(UTC), time.monotonic()
        with _attempted(path, job.verb, clock) as (attempt, end_well):
            code, git = job_code(job.verb, job.uses), Git(**env.git_state(PROJECT))
            read = {name: _content(one, path) for name, one in inputs.items()}
            stamps = {name: _stamp(one) for name, one in inputs.items()}
            yield recording
            for name, one in inputs.items():
                if _stamp(one) != stamps[name] and content_hash(one) != read[name].sha256:
                    raise UserError(f"{one}: found it changed while {job.verb} ran, expected it still; run it again")
            manifest = cls(
                format=FORMAT,
                verb=job.verb,
                step=job.step,
                decided_by=decided,
                command=tuple(command_of(job.verb)),
                folder=_place(Path.cwd(), path)[1],
                attempt=attempt,
                code=Code(digest=code.digest, uses=uses, definitions=code.definitions),
                git=git,
                installed=Installed(
                    python=platform.python_version(),
                    packages=env.key_packages(),
                    all_sha256=env.packages_sha256(),
                    pinned=env.pinned(PROJECT, job.step),
                    pins=env.pins(PROJECT),
                ),
                machine=env.machine(),
                environment=env.environment(),
                seeds=recording.seeds,
                inputs=read,
                outputs={name: _content(one, path) for name, one in outputs.items()},
                extra=env.scrubbed(recording.extra),
                started=started.isoformat(timespec="milliseconds"),
                ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
                seconds=_seconds(clock),
                **_used(),
            )
            text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
            write_atomically(path, text)
            try:
                end_well(sha256(text.encode()).hexdigest())
            except BaseException:
                path.unlink(missing_ok=True)
                raise


def _used() -> dict[str, float]:
    """Processor time and memory up to now; recorded, so that `chord plan` can be compared with it."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in usages), 3),
        "peak_memory_mb": max(one.ru_maxrss for one in usages) * 1024 / 1e6,
    }


@dataclass
class Recording:
    """What a verb may still add while it works: `seeds` and `extra` (device, counts, resumed-from, ...)."""

    seeds: dict[str, int]
    extra: dict[str, Any]


@contextmanager
def _attempted(path: Path, verb: str, clock: float) -> Generator[tuple[Attempt, Callable[[str], None]]]:
    """An attempt whose start the ledger of `path` has, and what tells it of the manifest if the block ends well."""
    ledger, me = ledgers.ledger_for(path), this_process()
    about: dict[str, Any] = {"host": me.host, "pid": me.pid, "job": os.environ.get("SLURM_JOB_ID")}
    name, line = uuid.uuid4().hex, None

    def end(**outcome: Any) -> None:
        if ledger is not None:
            ledgers.append(ledger, "end", {"attempt": name, "seconds": _seconds(clock), **outcome})

    if ledger is not None:
        place = {"manifest": _place(path, path)[1], "command": command_of(verb)}
        line = ledgers.append(ledger, "start", {"attempt": name, "verb": verb, **place, **about})
    try:
        yield Attempt(id=name, ledger_line_sha256=line, **about), lambda sha: end(outcome="ok", manifest_sha256=sha)
    except BaseException as error:
        try:
            end(**_outcome(error))
        except OSError as second:
            print(f"{verb}: {ledger}: the end of this attempt was not recorded: {second}", file=sys.stderr)
        raise


def _outcome(error: BaseException) -> dict[str, Any]:
    """How an attempt ended that made no manifest."""
    match error:
        case Terminated():
            return {"outcome": "signal", "signal": error.signal}
        case KeyboardInterrupt():
            return {"outcome": "signal", "signal": "SIGINT"}
        case SystemExit(code=code):
            return {"outcome": "stopped", "exit_code": code if isinstance(code, int) else str(code)}
        case _:
            said = env.scrubbed(" ".join(str(error).split()))
            return {"outcome": "failed", "error": f"{type(error).__name__}: {said}"[:500]}


def _seconds(clock: float) -> float:
    return round(time.monotonic() - clock, 3)


def command_of(verb: str) -> list[str]:
    """How this process was started, in words that hold on another machine: no interpreter, no folder of the project."""
    return ["python", "-m", *verb.split(), *env.scrubbed_command(sys.argv[1:])]


def _content(path: Path, manifest: Path) -> Content:
    root, place = _place(path, manifest)
    kind = "folder" if path.is_dir() else "file"
    return Content(path=place, root=root, kind=kind, sha256=content_hash(path), bytes=size_bytes(path))


def _stamp(path: Path) -> list[int]:
    """Differs after any write to a file or change of a folder; cheap, and only a reason to look closer."""
    files = [*files_below(path)] if path.is_dir() else []
    stats = [one.stat() for one in dict.fromkeys([path, *(file.parent for file in files), *files]) if one.exists()]
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns, stat.st_ino)]


# --- reading -----------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises UserError for a missing, damaged or foreign one."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        found = "no such file"
    except IsADirectoryError:
        found = "a folder"
    except OSError as error:
        found = f"no way to read it ({error.strerror})"
    except ValidationError as error:
        first = error.errors()[0]
        found = ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])
    raise UserError(f"{path}: found {found}, expected the manifest of a verb; run the verb again")


@decides_nothing("it records")
def as_plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON would give it back: records become mappings, tuples become lists."""
    return json.loads(_PLAIN.dump_json(dict(value)))


def roots_of(manifest: Path) -> dict[Root, Path]:
    """Where the roots of recorded paths are now, seen from a manifest; there is none for `elsewhere`."""
    ledger = ledgers.ledger_for(manifest)
    if ledger is None:
        return {"code": PROJECT}
    study = ledger.parent.parent
    return {"study": study, "project": study.parent.parent, "code": PROJECT}


def locate(content: Content, manifest: Path) -> Path:
    """Where a recorded file is now, seen from where its manifest is now."""
    return roots_of(manifest).get(content.root, Path()) / content.path


def _place(path: Path, manifest: Path) -> tuple[Root, str]:
    """The nearest known root above `path`, and the way from there; the whole path if there is none."""
    for root, folder in roots_of(manifest).items():
        if path.absolute().is_relative_to(folder):
            return root, path.absolute().relative_to(folder).as_posix()
    return "elsewhere", str(path.absolute())

"""What a crate tells of a study: its manifests, its attempts, its files as they stand. Reads, and writes nothing.

Hashes come from the manifests. A file that no manifest names (logs, the ledger, the manifests) is hashed here.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance import ledger as ledgers
from chord.provenance.crate_graph import METADATA, without_places
from chord.provenance.digest import PROJECT
from chord.provenance.files import UserError
from chord.provenance.hashing import TIMESTAMP, content_hash, files_below
from chord.provenance.hashing import size_bytes as bytes_in
from chord.provenance.manifest import Manifest, read_manifest
from chord.provenance.manifest_parts import Content

COPIED = "crate"  # where a crate keeps what it needs of the project
PARTS = ("CITATION.cff", "LICENSE", "README.md", "Snakefile", "pyproject.toml")
FOLDERS = ("chord", "config", "envs", "profiles", "workflow")
PASSING = "state"  # of an interrupted training; no output
README = "README.md"
README_TEXT = """# A Provenance Run Crate

This folder is a study with its provenance. `ro-crate-metadata.json` (RO-Crate 1.1, profile Provenance Run Crate 0.5)
names every file with its SHA-256, and every job that ran, also those that failed, with what it read, wrote and was
told. Tables and figures stand at the top; `crate/` holds workflow, configuration, code and pinned packages;
`provenance/ledger.jsonl` is the log of all attempts. Written by `python -m chord export`.
"""


@dataclass(frozen=True)
class Attempt:
    """One run of a verb; `made` is its manifest if that still stands, `problem` says why there is none.

    Where the end was not recorded, `ended` is when the next attempt at the same manifest began, or None.
    """

    id: str
    verb: str
    manifest: str
    command: tuple[str, ...]
    started: str
    ended: str | None
    end_recorded: bool
    problem: str | None
    made: Manifest | None


class Study(NamedTuple):
    """A results folder: `manifests` and `stands` by path in it; `copies` by path in the crate."""

    folder: Path
    project: Path
    manifests: dict[str, Manifest]
    attempts: list[Attempt]
    stands: dict[str, Content]
    copies: dict[str, Path]


def read_study(folder: Path, verify: bool) -> Study:
    """All that a crate of `folder` tells. Raises UserError for no study, a damaged record, an output that was changed.

    With `verify` every byte that a manifest vouches for is hashed again; without it only the sizes are compared.
    """
    if ledgers.ledger_for(folder / METADATA) != folder.absolute() / "provenance" / "ledger.jsonl":
        raise UserError(f"{folder}: found a folder elsewhere, expected results/STUDY, which a workflow has filled")
    manifests = {path: read_manifest(folder / path) for path in _walk(folder) if path.endswith(".manifest.json")}
    if not manifests:
        raise UserError(f"{folder}: found no manifest, expected a study with results; run the workflow first")
    attempts = attempts_of(ledgers.read(folder / "provenance" / "ledger.jsonl"), manifests)
    holder = folder.absolute().parent.parent
    project = holder if (holder / "Snakefile").is_file() else PROJECT
    return Study(folder, project, manifests, attempts, _stands(folder, manifests, verify), _copies(project))


# --- attempts ----------------------------------------------------------------------------------


def attempts_of(lines: list[dict[str, Any]], manifests: Mapping[str, Manifest]) -> list[Attempt]:
    """Every attempt in the ledger or in a manifest, by the time at which it began."""
    starts = {line["attempt"]: line for line in lines if line["event"] == "start"}
    ends = {line["attempt"]: line for line in lines if line["event"] == "end"}
    made = {manifest.attempt.id: (path, manifest) for path, manifest in manifests.items()}
    times: dict[str, list[str]] = {}
    for start in starts.values():
        times.setdefault(start["manifest"], []).append(start["time"])
    told = [
        _attempt(start, ends.get(name), times[start["manifest"]], made.get(name, (None, None))[1])
        for name, start in starts.items()
    ]
    unlisted = [_unlisted(path, manifest) for name, (path, manifest) in made.items() if name not in starts]
    return sorted([*told, *unlisted], key=lambda attempt: (attempt.started, attempt.id))


def _attempt(
    start: Mapping[str, Any], end: Mapping[str, Any] | None, starts: list[str], made: Manifest | None
) -> Attempt:
    """One attempt; `starts` has the times at which all attempts at the same manifest began."""
    over_by = min((time for time in starts if time > start["time"]), default=None)
    return Attempt(
        id=start["attempt"],
        verb=start["verb"],
        manifest=start["manifest"],
        command=tuple(start["command"]),
        started=made.started if made else start["time"],
        ended=made.ended if made else (end["time"] if end else over_by),
        end_recorded=end is not None or made is not None,
        problem=None if made else _problem(end),
        made=made,
    )


def _unlisted(path: str, manifest: Manifest) -> Attempt:
    about = (manifest.attempt.id, manifest.verb, path, manifest.command, manifest.started, manifest.ended)
    return Attempt(*about, end_recorded=True, problem=None, made=manifest)


def _problem(end: Mapping[str, Any] | None) -> str | None:
    """Why an attempt left nothing behind; None for one that ended well and whose outputs another one has replaced."""
    if end is None:
        return "no end was recorded: killed outright, or still running when this was exported"
    how = {
        "ok": None,
        "signal": f"ended by {end.get('signal')}",
        "stopped": f"stopped with exit code {end.get('exit_code')}, its outputs not yet made",
        "failed": without_places(str(end.get("error"))),
    }
    return how.get(end["outcome"], f"ended as: {end['outcome']}")


# --- files -------------------------------------------------------------------------------------


def _stands(folder: Path, manifests: Mapping[str, Manifest], verify: bool) -> dict[str, Content]:
    """Every file and recorded folder of the study by its path, with the hash that its maker wrote down."""
    outputs, inputs = _recorded(manifests, "outputs"), _recorded(manifests, "inputs")
    found: dict[str, Content] = {}
    for path, contents in {**inputs, **outputs}.items():
        if (folder / path).exists():
            found[path] = _standing(folder / path, contents, path in outputs, verify)
    whole = {path for path, content in found.items() if content.kind == "folder"}
    for path in _walk(folder):
        if path not in found and whole.isdisjoint(map(str, Path(path).parents)):
            found[path] = _hashed(folder / path, path)
    return dict(sorted(found.items()))


def _recorded(manifests: Mapping[str, Manifest], side: str) -> dict[str, list[Content]]:
    found: dict[str, list[Content]] = {}
    for manifest in manifests.values():
        for content in getattr(manifest, side).values():
            if content.root == "study":
                found.setdefault(content.path, []).append(content)
    return found


def _standing(path: Path, contents: list[Content], is_output: bool, verify: bool) -> Content:
    """What a file is, if its makers (or, where nobody recorded making it, its readers) agree; else by its bytes."""
    recorded = contents[0]
    if any(content.sha256 != recorded.sha256 for content in contents):
        return _hashed(path, recorded.path)
    size = bytes_in(path) - (_mark(path) if path.is_dir() else 0)
    same = size == recorded.bytes and (not verify or content_hash(path) == recorded.sha256)
    if same:
        return recorded
    if not is_output:
        return _hashed(path, recorded.path)
    found = f"{size} bytes" if size != recorded.bytes else "other bytes"
    raise UserError(
        f"{path}: found {found}, expected the {recorded.bytes} that its manifest vouches for; "
        "make it again, or see what `python -m chord audit` says"
    )


def _mark(folder: Path) -> int:
    """Bytes of the marks that Snakemake leaves in a folder after the job that made it."""
    return sum(mark.stat().st_size for mark in files_below(folder) if mark.name == TIMESTAMP)


def _hashed(path: Path, name: str) -> Content:
    kind = "folder" if path.is_dir() else "file"
    return Content(path=name, root="study", kind=kind, sha256=content_hash(path), bytes=bytes_in(path))


def _walk(folder: Path) -> Iterator[str]:
    """Files of the study by path, in order; without what passes, what is hidden, and what an export has written."""

    def is_part(inside: Path) -> bool:
        """Whether a folder is part of the study: one of its own, or on another disk and linked to."""
        passes = inside.name.startswith(".") or inside.name == PASSING or inside == folder / COPIED
        return not passes and not (inside.is_symlink() and _shows_study(inside, folder))

    for path in files_below(folder, is_part):
        passes = path.name.startswith(".") or ".ahead." in path.name or (path.parent == folder and _is_ours(path))
        if not passes and path.is_file():
            yield path.relative_to(folder).as_posix()


def _shows_study(link: Path, folder: Path) -> bool:
    """Whether a link is a second name for a place in the study, which may itself be a link to another disk."""
    named = Path(os.path.normpath(link.absolute().parent / os.readlink(link)))
    return named.is_relative_to(folder.absolute()) or link.resolve().is_relative_to(folder.resolve())


def _is_ours(path: Path) -> bool:
    """Whether a file at the top of a study was written by an export."""
    first_line = README_TEXT.splitlines()[0]
    return path.name == METADATA or (path.name == README and path.read_text("utf-8").startswith(first_line))


def _copies(project: Path) -> dict[str, Path]:
    """Files of the project that make the crate complete: workflow, configuration, code, pins."""
    found = [project / name for name in PARTS if (project / name).is_file()]
    for name in FOLDERS:
        for inside, folders, names in os.walk(project / name):
            folders[:] = sorted(one for one in folders if not one.startswith((".", "__pycache__")))
            found += [Path(inside, one) for one in sorted(names) if not one.startswith(".")]
    return {f"{COPIED}/{path.relative_to(project).as_posix()}": path for path in found if not path.is_symlink()}


def title_of(folder: Path, manifest: Manifest) -> str | None:
    """The title of a table or figure, which its JSON holds; None for anything else."""
    if "artefact" not in manifest.extra:
        return None
    for content in manifest.outputs.values():
        path = folder / content.path
        if content.root == "study" and path.suffix == ".json" and path.is_file():
            data = json.loads(path.read_bytes())
            return data.get("title") if isinstance(data, dict) else None
    return None

"""A study as a Provenance Run Crate 0.5: in place, or as a folder of its own that can be given away.

    chord export results/demo                 results/demo becomes a crate: metadata, and crate/ beside
    chord export results/demo --out FOLDER    a copy of its files that is one; --link for hard links

In place, `ro-crate-metadata.json`, `README.md` and `crate/` (workflow, configuration, code, pins) are added, and
nothing else is touched. The metadata names no machine and no absolute path; the study's own logs and manifests may.
"""

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chord import module_of
from chord.audit.crate import COPIED, README, README_TEXT, Attempt, Study, metadata_of, parts_of, without_places
from chord.config.reading import read_yaml
from chord.errors import UserError
from chord.provenance.digest import PROJECT
from chord.provenance.files import TIMESTAMP, atomic_folder, content_hash, files_below, size_bytes, write_atomically
from chord.provenance.ledger import LEDGER, Attempts, ledger_for, read_attempts
from chord.provenance.lineage import Lineage, read_lineage
from chord.provenance.manifest import Content, Manifest

METADATA = "ro-crate-metadata.json"
# What a crate keeps of the project: workflow, configuration, code, pins.
FILES = ("CITATION.cff", "LICENSE", "README.md", "Snakefile", "pyproject.toml")
FOLDERS = ("chord", "config", "envs", "profiles", "workflow")
UNFINISHED = "state"  # of an interrupted training; no output


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the crate that the command line asks for, and say what it holds."""
    given = _parser().parse_args(arguments)
    study = read_study(given.study, given.verify)
    text = metadata_of(study, given.verify)
    if given.out is None:
        write_in_place(study, text)
    else:
        write_apart(study, text, given.out, given.link)
    failed = sum(attempt.problem is not None for attempt in study.attempts)
    print(
        f"{(given.out or given.study) / METADATA}: {len(study.stands)} files and folders of the study, "
        f"{len(study.attempts)} attempts, {failed} of them without a result"
    )


def write_in_place(study: Study, text: str) -> None:
    """Make the study's own folder a crate."""
    with atomic_folder(study.folder / COPIED) as folder:
        _copy_project(study, folder)
    if README not in study.stands:
        write_atomically(study.folder / README, README_TEXT)
    write_atomically(study.folder / METADATA, text)


def write_apart(study: Study, text: str, out: Path, link: bool) -> None:
    """Make `out` a crate with copies of the study's files, or with hard links to them; an older crate is replaced."""
    if out.absolute().is_relative_to(study.folder.absolute()):
        raise UserError(f"--out: found {out}, inside of the study, expected a folder elsewhere")
    if out.exists() and not (out / METADATA).is_file():
        raise UserError(f"--out: found {out}, which is no crate, expected a new folder or an older crate to replace")
    copy = _hard_link if link else shutil.copyfile
    with atomic_folder(out) as folder:
        _copy_project(study, folder / COPIED)
        for path, content in study.stands.items():
            target = folder / path
            if target.exists():  # in a folder that was copied before
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if content.kind == "file":
                copy(study.folder / path, target)
            else:
                marks = shutil.ignore_patterns(TIMESTAMP)
                shutil.copytree(study.folder / path, target, ignore=marks, copy_function=copy)
        if README not in study.stands:
            (folder / README).write_text(README_TEXT, "utf-8")
        (folder / METADATA).write_text(text, "utf-8")


def _copy_project(study: Study, folder: Path) -> None:
    for path in study.copies:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(study.project / path, folder / path)


def _hard_link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        raise UserError(f"{target}: found no way to link to {source} ({error.strerror}); use --copy") from None


def read_study(folder: Path, verify: bool) -> Study:
    """All that a crate of `folder` tells. Raises UserError for no study, a damaged record, an output that was changed.

    With `verify` every byte that a manifest vouches for is hashed again; without it only the sizes are compared.
    """
    ledger = folder.absolute() / LEDGER
    if ledger_for(folder / METADATA) != ledger:
        raise UserError(f"{folder}: found a folder elsewhere, expected results/STUDY, which a workflow has filled")
    lineage = read_lineage(folder)
    for path, reason in lineage.unreadable.items():
        raise UserError(f"{path}: {reason}, expected the manifest of a verb; run the verb again")
    if not lineage.jobs:
        raise UserError(f"{folder}: found no manifest, expected a study with results; run the workflow first")
    attempts = read_attempts(ledger)
    if attempts.is_missing or attempts.broken:
        broken = attempts.broken
        found = f", line {broken.line}: {broken.problem}" if broken else ": found no such file"
        raise UserError(f"{ledger}{found}, expected the whole ledger of the study; put it back from a backup")
    project = lineage.project if (lineage.project / "Snakefile").is_file() else PROJECT
    manifests = {lineage.place(path): job.manifest for path, job in lineage.jobs.items()}
    made = _attempts(attempts, manifests)
    stands = _stands(lineage, verify)
    return Study(folder, project, _citation(project / "CITATION.cff"), manifests, made, stands, _copies(project))


def _attempts(ledger: Attempts, manifests: Mapping[str, Manifest]) -> list[Attempt]:
    """Every attempt in the ledger or in a manifest, by the time at which it began."""
    made = {one.attempt.id: one for one in manifests.values()}
    starts = {
        one.attempt.id: {"verb": one.verb, "manifest": path, "command": one.command, "time": one.started}
        for path, one in manifests.items()
    }
    starts |= {start["attempt"]: start for start in ledger.starts.values()}
    found: list[Attempt] = []
    for name, start in starts.items():
        end, manifest = ledger.ends.get(name, [None])[-1], made.get(name)
        started, problem = start["time"], None if manifest else _problem(end)
        if manifest:
            started, ended = manifest.started, manifest.ended
        elif end:
            ended = end["time"]
        else:
            later = [one for one in starts.values() if one["manifest"] == start["manifest"] and one["time"] > started]
            ended = min((one["time"] for one in later), default=None)
        source = f"{module_of(start['verb']).replace('.', '/')}.py"
        about = (name, start["verb"], source, start["manifest"], tuple(start["command"]), started, ended)
        found.append(Attempt(*about, end_recorded=bool(end or manifest), problem=problem, made=manifest))
    return sorted(found, key=lambda attempt: (attempt.started, attempt.id))


def _problem(end: Mapping[str, Any] | None) -> str | None:
    """Why an attempt left nothing behind; None for one that ended well and whose outputs another one has replaced."""
    if end is None:
        return "no end was recorded: killed outright, or still running when this was exported"
    reasons = {
        "ok": None,
        "signal": f"ended by {end.get('signal')}",
        "stopped": f"stopped with exit code {end.get('exit_code')}, its outputs not yet made",
        "failed": without_places(str(end.get("error"))),
    }
    return reasons.get(end["outcome"], f"ended as: {end['outcome']}")


def _stands(lineage: Lineage, verify: bool) -> dict[str, Content]:
    """Every file and recorded folder of the study by its path, with the hash that its maker wrote down.

    A file that nobody recorded making is hashed, but for one that its readers agree about.
    """
    found: dict[str, Content] = {}
    for path in {*lineage.makers, *lineage.readings}:
        if not path.is_relative_to(lineage.study) or not path.exists():
            continue
        maker, size = lineage.makers.get(path), _size(path)
        records = [maker.outputs[path]] if maker else [reading.content for reading in lineage.readings[path]]
        recorded, agree = records[0], len({one.sha256 for one in records}) == 1
        if agree and size == recorded.bytes and (not verify or content_hash(path) == recorded.sha256):
            found[lineage.place(path)] = recorded
        elif maker:
            what = f"{size} bytes" if size != recorded.bytes else "other bytes"
            raise UserError(
                f"{path}: found {what}, expected the {recorded.bytes} that its manifest vouches for; "
                "make it again, or see what `chord audit` says"
            )
        else:
            found[lineage.place(path)] = _hashed(path, lineage.place(path))
    folders = {path for path, content in found.items() if content.kind == "folder"}
    for path in _walk(lineage.study):
        if path not in found and folders.isdisjoint(map(str, Path(path).parents)):
            found[path] = _hashed(lineage.study / path, path)
    return dict(sorted(found.items()))


def _hashed(path: Path, name: str) -> Content:
    kind = "folder" if path.is_dir() else "file"
    return Content(path=name, root="study", kind=kind, sha256=content_hash(path), bytes=_size(path))


def _size(path: Path) -> int:
    return sum(size_bytes(file) for file in (parts_of(path) if path.is_dir() else [path]))


def _walk(folder: Path) -> Iterator[str]:
    """Files of the study by path, in order; without unfinished and hidden ones, and without those of an export."""

    def is_part(inside: Path) -> bool:
        if inside.name.startswith(".") or inside.name == UNFINISHED or inside == folder / COPIED:
            return False
        if not inside.is_symlink():
            return True
        # A link to a folder on another disk is part of the study; a second name for a place in the study is not.
        named = Path(os.path.normpath(inside.absolute().parent / os.readlink(inside)))
        return not (named.is_relative_to(folder.absolute()) or inside.resolve().is_relative_to(folder.resolve()))

    for file in files_below(folder, is_part):
        is_left_out = file.name.startswith(".") or ".ahead." in file.name or file == folder / METADATA
        if file == folder / README:
            is_left_out = file.read_text("utf-8").startswith(README_TEXT.splitlines()[0])
        if file.is_file() and not is_left_out:
            yield file.relative_to(folder).as_posix()


def _copies(project: Path) -> dict[str, Content]:
    def is_kept(path: Path) -> bool:
        return not path.is_symlink() and not path.name.startswith((".", "__pycache__"))

    files = [project / name for name in FILES if (project / name).is_file()]
    files += [file for name in FOLDERS for file in files_below(project / name, is_kept)]
    paths = {file.relative_to(project).as_posix(): file for file in files if is_kept(file)}
    return {path: _hashed(file, f"{COPIED}/{path}") for path, file in paths.items()}


def _citation(path: Path) -> dict[str, Any]:
    shown = f"{path}, which gives a crate its title, license and authors"
    cited = read_yaml(path, shown)
    if lacking := {"title", "license", "authors"} - cited.keys():
        raise UserError(f"{shown}: found no {', '.join(sorted(lacking))}, expected all three")
    return cited


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="results/STUDY")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the crate there; default: in place")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--link", action="store_true", help="with --out: hard links, so that no disk is used")
    how.add_argument("--copy", dest="link", action="store_false", help="with --out: copies (the default)")
    parser.add_argument("--verify", action="store_true", help="hash every file again, also those inside of folders")
    return parser

"""A study as a Provenance Run Crate 0.5: in place, or as a folder of its own that can be given away.

    chord export results/demo                 results/demo becomes a crate: metadata, and crate/ beside
    chord export results/demo --out FOLDER    a copy of its files that is one; --link for hard links

In place, `ro-crate-metadata.json`, `README.md` and `crate/` (workflow, configuration, code, pins) are added, and
nothing else is touched. The metadata names no machine and no absolute path; the study's own logs and manifests may.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chord.provenance.crate import metadata_of
from chord.provenance.crate_graph import METADATA
from chord.provenance.crate_study import COPIED, README, README_TEXT, Study, read_study
from chord.provenance.files import UserError, atomic_folder, write_atomically
from chord.provenance.hashing import TIMESTAMP

_marks = shutil.ignore_patterns(TIMESTAMP)
Copy = Callable[[str | Path, str | Path], object]


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
        _put(study.copies, folder, COPIED, shutil.copyfile)
    if README not in study.stands:
        write_atomically(study.folder / README, README_TEXT)
    write_atomically(study.folder / METADATA, text)


def write_apart(study: Study, text: str, out: Path, link: bool) -> None:
    """Make `out` a crate with copies of the study's files, or with hard links to them; an older crate is replaced."""
    if out.absolute().is_relative_to(study.folder.absolute()):
        raise UserError(f"--out: found {out}, inside of the study, expected a folder elsewhere")
    if out.exists() and not (out / METADATA).is_file():
        raise UserError(f"--out: found {out}, which is no crate, expected a new folder or an older crate to replace")
    files = {path: study.folder / path for path, content in study.stands.items() if content.kind == "file"}
    folders = {path: study.folder / path for path, content in study.stands.items() if content.kind == "folder"}
    copy = _hard_link if link else shutil.copyfile
    with atomic_folder(out) as folder:
        _put(study.copies, folder, "", shutil.copyfile)
        _put(files, folder, "", copy)
        for path, source in folders.items():
            shutil.copytree(source, folder / path, ignore=_marks, copy_function=copy, dirs_exist_ok=True)
        if README not in study.stands:
            (folder / README).write_text(README_TEXT, "utf-8")
        (folder / METADATA).write_text(text, "utf-8")


def _put(files: Mapping[str, Path], folder: Path, under: str, copy: Copy) -> None:
    """Copy each source to its path, which is relative to `under`, in `folder`."""
    for path, source in files.items():
        target = folder / Path(path).relative_to(under)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(source, target)


def _hard_link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        raise UserError(f"{target}: found no way to link to {source} ({error.strerror}); use --copy") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="results/STUDY")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the crate there; default: in place")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--link", action="store_true", help="with --out: hard links, so that no disk is used")
    how.add_argument("--copy", dest="link", action="store_false", help="with --out: copies (the default)")
    parser.add_argument("--verify", action="store_true", help="hash every file again, also those inside of folders")
    return parser

"""What `chord fetch` brought: where it lies, and that it is still what the lock file says. Knows no network.

A repository lies in `hub/models/OWNER/NAME/COMMIT` or `hub/datasets/OWNER/NAME/COMMIT` of the project, one file a file.
The environment variable CHORD_HUB names another folder than `hub`, for example one on a file system with more room.
"""

import os
from fnmatch import fnmatch
from pathlib import Path

from chord.config.lock import Lock, LockedRepository, Wanted
from chord.provenance.files import UserError
from chord.provenance.hashing import file_sha256

HUB = "CHORD_HUB"


def hub_folder(root: Path) -> Path:
    """Where fetched repositories lie, for the project in `root`."""
    return Path(os.environ.get(HUB) or root / "hub")


def repository_folder(root: Path, kind: str, name: str, commit: str) -> Path:
    """Where one fetched repository lies."""
    return hub_folder(root).joinpath(f"{kind}s", *name.split("/"), commit)


def checked_files(root: Path, study: str, lock: Lock | None, wanted: Wanted) -> list[tuple[str, Path]]:
    """The files of a repository that `wanted` asks for, by name, each with the hash that the lock file has.

    Raises UserError if it was never fetched, or if a file is missing or not what was fetched.
    """
    fetch = f"run `chord fetch --study {study}` where there is a network"
    locked = lock.find(wanted) if lock else None
    if locked is None:
        found = "no lock file" if lock is None else "nothing of it in the lock file"
        raise UserError(
            f"{wanted.kind} {wanted.name}: found {found} config/locks/{study}.json, expected it pinned at"
            f" {wanted.revision}; {fetch}"
        )
    folder = repository_folder(root, locked.kind, locked.name, locked.commit)
    names = [name for name in sorted(locked.files) if any(fnmatch(name, pattern) for pattern in wanted.patterns)]
    for name in names:
        fault = fault_of(folder / name, locked, name)
        if fault:
            raise UserError(f"{folder / name}: {fault}; {fetch}")
    return [(name, folder / name) for name in names]


def fault_of(path: Path, locked: LockedRepository, name: str) -> str | None:
    """Why `path` is not the file `name` of a pinned repository; None if it is, to the byte."""
    expected = locked.files[name]
    if not path.is_file():
        return f"found no such file, expected {expected.size} bytes of {locked.name} at {locked.commit}"
    size = path.stat().st_size
    if size != expected.size:
        return f"found {size} bytes, expected {expected.size} as in the lock file"
    digest = file_sha256(path)
    if digest != expected.sha256:
        return f"found SHA-256 {digest}, expected {expected.sha256} as in the lock file: the file was altered"
    return None

"""What a study needs of a model hub -> files in `hub/`, and a lock file that pins them to the byte.

chord fetch --study math [--update] [--offline] [--mirror URL]

Run it once where there is a network, before Snakemake: compute nodes often have none, so no job of the DAG does this.
What is there is not brought again, a file that was cut off goes on where it ended. Without a lock file the revisions of
the study are looked up and pinned; with one exactly its commits and bytes are accepted, or else refused. `--update`
pins anew. `--offline`, or HF_HUB_OFFLINE=1, checks what is there and brings nothing. A token for closed repositories
is taken from HF_TOKEN, and from nowhere else, and is written nowhere.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from chord.config.load import load
from chord.config.lock import COMMIT, Lock, LockedFile, LockedRepository, Wanted, lock_path, read_lock, repositories
from chord.config.study import Study
from chord.errors import UserError
from chord.provenance.files import file_sha256, lock, sync_folder, write_atomically

# --- fetch ---------------------------------------------------------------------------------------

VERB = "chord fetch"
SPARE_BYTES = 1 << 30  # room that must be left when all has arrived


def main() -> None:
    """Brings every repository of the study, checks it, and writes the lock file if something new was pinned."""
    args = _arguments()
    root = args.root.resolve()
    study = load(root, study=args.study).study
    wanted = repositories(study)
    if not wanted:
        print(f"{study.name}: needs nothing of a hub")
        return
    lock = None if args.update else read_lock(root, study.name)
    if args.offline or os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        _check_offline(root, study, lock, wanted)
        return
    pinned = _fetched(root, study, lock, wanted, args.mirror)
    made = Lock(study=study.name, repositories=tuple(pinned))
    path = lock_path(root, study.name)
    if made == lock:
        print(f"{study.name}: {len(pinned)} repositories are here, as in {path.relative_to(root)}")
        return
    write_atomically(path, made.model_dump_json(indent=2) + "\n")
    print(f"{study.name}: {len(pinned)} repositories are here; {path.relative_to(root)} pins them: commit it")


def _fetched(
    root: Path, study: Study, lock: Lock | None, wanted: list[Wanted], mirror: str | None
) -> list[LockedRepository]:
    """Every repository, brought and checked. All are looked up first, so that a full disk is known before."""
    client = Client(mirror, os.environ.get("HF_TOKEN"))
    listed = [client.listing(one, lock.find(one) if lock else None) for one in wanted]
    missing = sum(
        size
        for listing in listed
        for name, size in listing.sizes.items()
        if not (repository_folder(root, listing.kind, listing.name, listing.commit) / name).exists()
    )
    _check_room(hub_folder(root), missing, study.name)
    pinned: list[LockedRepository] = []
    for one, listing in zip(wanted, listed, strict=True):
        folder = repository_folder(root, listing.kind, listing.name, listing.commit)
        locked = lock.find(one) if lock else None
        files: dict[str, LockedFile] = {}
        for number, name in enumerate(sorted(listing.sizes), start=1):
            shown = f"{one.kind} {one.name}: {name} ({number} of {len(listing.sizes)}, {listing.sizes[name]:,} bytes)"
            print(shown, file=sys.stderr, flush=True)
            files[name] = client.bring(listing, name, folder / name, locked.files[name] if locked else None)
        pinned.append(
            LockedRepository(kind=one.kind, name=one.name, revision=one.revision, commit=listing.commit, files=files)
        )
    return pinned


def _check_offline(root: Path, study: Study, lock: Lock | None, wanted: list[Wanted]) -> None:
    """Every file is there and is what the lock file says; raises UserError that names what is not."""
    place = f"config/locks/{study.name}.json"
    faults: list[str] = []
    count = 0
    for one in wanted:
        locked = lock.find(one) if lock else None
        if locked is None:
            faults.append(f"{one.kind} {one.name}: found no entry in {place} for revision {one.revision}")
            continue
        folder = repository_folder(root, locked.kind, locked.name, locked.commit)
        for name in sorted(locked.files):
            fault = fault_of(folder / name, locked, name)
            faults += [f"{folder / name}: {fault}"] if fault else []
            count += 1
    if faults:
        raise UserError("\n".join([*faults, f"run `chord fetch --study {study.name}` where there is a network"]))
    print(f"{study.name}: {count} files of {len(wanted)} repositories are here, as in {place}")


def _check_room(folder: Path, needed: int, study: str) -> None:
    """Raises UserError unless `needed` bytes and some more fit on the disk of `folder`."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed and free < needed + SPARE_BYTES:
        raise UserError(
            f"{folder}: found {free / 2**30:.1f} GiB free, expected {(needed + SPARE_BYTES) / 2**30:.1f} GiB for what"
            f" study {study} lacks; free some, or name another folder in CHORD_HUB"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--study", required=True, help="name of the study, as in config/studies")
    parser.add_argument("--update", action="store_true", help="pin the revisions of the study anew")
    parser.add_argument("--offline", action="store_true", help="bring nothing, only check what is here")
    parser.add_argument(
        "--mirror", metavar="URL", help="another address of the hub (default: HF_ENDPOINT, else the official one)"
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of the project (default: this one)")
    return parser.parse_args()


# --- fetched -------------------------------------------------------------------------------------

# What `chord fetch` brought: where it lies, and that it is still what the lock file says. Knows no network.
#
# A repository lies in `hub/models/OWNER/NAME/COMMIT` or `hub/datasets/OWNER/NAME/COMMIT` of the project, one file a
# file.
# The environment variable CHORD_HUB names another folder than `hub`, for example one on a file system with more room.

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


# --- hub client ----------------------------------------------------------------------------------

# Files of a model hub over the network, through huggingface_hub: listed at one commit, brought whole or not at all.
#
# A download that was cut off leaves `NAME.part` and goes on there. What arrives must have the size and the hash that
# the
# hub lists, and those of the lock file where there is one. The token is sent to the hub and goes nowhere else.


@dataclass(frozen=True)
class Listing:
    """What the hub says of one repository at one commit: of each wanted file its size in bytes and its hash.

    A hash is ("sha256", hex) of a file in large storage, else ("git", hex), the name of git for the content.
    """

    kind: Literal["model", "dataset"]
    name: str
    commit: str
    sizes: dict[str, int]
    hashes: dict[str, tuple[str, str]]


class Client:
    """One hub. `mirror` is another address than the official one, None for what huggingface_hub takes by itself."""

    def __init__(self, mirror: str | None, token: str | None) -> None:
        self._mirror = mirror.rstrip("/") if mirror else None
        self._token: str | bool = token or False  # False: not that of a file either
        self._api = HfApi(endpoint=self._mirror, token=self._token)

    def listing(self, wanted: Wanted, locked: LockedRepository | None) -> Listing:
        """The wanted files at the pinned commit, or at the revision that the study names.

        Raises UserError where the repository or the commit is gone, closed, or lacks a file.
        """
        revision = locked.commit if locked else wanted.revision
        with _told(f"{wanted.kind} {wanted.name}", revision, pinned=locked is not None):
            info: Any = self._api.repo_info(
                wanted.name, repo_type=wanted.kind, revision=revision, files_metadata=True, timeout=60
            )
        commit, asked = str(info.sha), re.fullmatch(COMMIT, revision)
        if not re.fullmatch(COMMIT, commit) or (asked and commit != revision):
            raise UserError(f"{wanted.kind} {wanted.name}: found commit {commit}, expected {revision}: it has moved")
        there = {one.rfilename: one for one in info.siblings or []}
        names = set(locked.files) if locked else {n for n in there if any(fnmatch(n, p) for p in wanted.patterns)}
        lacking = [name for name in sorted(names) if name not in there]
        lacking += [pattern for pattern in wanted.required if not any(fnmatch(name, pattern) for name in names)]
        if lacking:
            raise UserError(f"{wanted.kind} {wanted.name} at {commit}: found no {lacking[0]}, expected it there")
        hashes = {name: _hash_of(there[name]) for name in names}
        return Listing(wanted.kind, wanted.name, commit, {name: int(there[name].size) for name in names}, hashes)

    def bring(self, listing: Listing, name: str, path: Path, locked: LockedFile | None) -> LockedFile:
        """The file at `path`, downloaded unless it is there. Raises UserError, and leaves none, if it is another."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        if path.is_file() and _fault(path, listing, name, locked) is None:
            return LockedFile(size=listing.sizes[name], sha256=file_sha256(path))
        with part.open("ab") as held:
            lock(held.fileno(), part)
            self._continue(listing, name, part)
            fault = _fault(part, listing, name, locked)
            if fault is not None:
                part.unlink()
                raise UserError(f"{listing.kind} {listing.name} at {listing.commit}: {name}: {fault}; it was not kept")
            os.replace(part, path)
        sync_folder(path.parent)
        return LockedFile(size=listing.sizes[name], sha256=file_sha256(path))

    def _continue(self, listing: Listing, name: str, part: Path) -> None:
        """`part` grows to the whole file, from where it ends; one that is too long begins anew."""
        address = hf_hub_url(listing.name, name, repo_type=listing.kind, revision=listing.commit, endpoint=self._mirror)
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        with part.open("r+b") as file:
            start = file.seek(0, os.SEEK_END)
            if start > listing.sizes[name]:
                start = file.seek(0)
                file.truncate()
            with _told(f"{listing.kind} {listing.name}: {name}", listing.commit, pinned=True):
                http_get(address, file, resume_size=start, headers=headers, expected_size=listing.sizes[name] or None)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _told(what: str, revision: str, pinned: bool) -> Iterator[None]:
    """What goes wrong on the network, as a UserError of one line without the token."""
    try:
        yield
    except GatedRepoError:
        raise UserError(f"{what}: found it closed, expected access; accept its terms and set HF_TOKEN") from None
    except RevisionNotFoundError:
        more = "; it is pinned by the lock file, `--update` pins the study's revision anew" if pinned else ""
        raise UserError(f"{what}: found no revision {revision}, expected it on the hub{more}") from None
    except RepositoryNotFoundError:
        raise UserError(f"{what}: found no such repository, or one that needs a token in HF_TOKEN") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{what}: found the hub failing ({reason:.300}), expected an answer; run it again") from None


def _hash_of(sibling: Any) -> tuple[str, str]:
    if sibling.lfs is not None:
        return "sha256", str(sibling.lfs.sha256)
    return "git", str(sibling.blob_id)


def _fault(path: Path, listing: Listing, name: str, locked: LockedFile | None) -> str | None:
    """Why a file is not what the hub lists and the lock file says."""
    size = path.stat().st_size
    if size != listing.sizes[name]:
        return f"found {size} bytes, expected {listing.sizes[name]} as the hub lists"
    kind, expected = listing.hashes[name]
    digest = file_sha256(path)
    found = digest if kind == "sha256" else _git_name(path)
    if found != expected:
        return f"found {kind} hash {found}, expected {expected} as the hub lists: it was damaged on the way"
    if locked is not None and digest != locked.sha256:
        return f"found SHA-256 {digest}, expected {locked.sha256} as in the lock file: the hub has other bytes now"
    return None


def _git_name(path: Path) -> str:
    """How git names the content of a file: such files are small."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

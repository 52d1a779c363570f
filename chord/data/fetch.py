"""What a study needs of a model hub -> files in `hub/`, and a lock file that pins them to the byte.

chord fetch --study math [--update] [--offline] [--mirror URL]

Run it once where there is a network, before Snakemake: compute nodes often have none, so no job of the DAG does this.
What is there is not brought again, a file that was cut off goes on where it ended. Without a lock file the revisions of
the study are looked up and pinned; with one exactly its commits and bytes are accepted, or else refused. `--update`
pins anew. `--offline`, or HF_HUB_OFFLINE=1, checks what is there and brings nothing. A token for closed repositories
is taken from HF_TOKEN, and from nowhere else, and is written nowhere.

A repository lies in `hub/models/OWNER/NAME/COMMIT` or `hub/datasets/OWNER/NAME/COMMIT` of the project. The environment
variable CHORD_HUB names another folder than `hub`, for example one on a file system with more room.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import filter as matching
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.utils.sha import git_hash

from chord.config.project import load
from chord.config.sets import COMMIT, Lock, LockedFile, LockedRepository, Wanted, lock_path, read_lock, repositories
from chord.config.study import Study
from chord.errors import UserError
from chord.provenance.files import file_sha256, lock, sync_folder, write_atomically

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
    pinned, path = None if args.update else read_lock(root, study.name), lock_path(root, study.name)
    what, how = f"{len(wanted)} repositories are here", f", as in {path.relative_to(root)}"
    if args.offline or os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        what = f"{_check_offline(root, study, pinned, wanted)} files of {what}"
    else:
        made = Lock(study=study.name, repositories=tuple(_fetched(root, study, pinned, wanted, args.mirror)))
        if made != pinned:
            write_atomically(path, made.model_dump_json(indent=2) + "\n")
            how = f"; {path.relative_to(root)} pins them: commit it"
    print(f"{study.name}: {what}{how}")


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


# --- what was fetched ----------------------------------------------------------------------------


def repository_folder(root: Path, kind: str, name: str, commit: str) -> Path:
    """Where one fetched repository lies, for the project in `root`."""
    return _hub_folder(root).joinpath(f"{kind}s", *name.split("/"), commit)


def _hub_folder(root: Path) -> Path:
    return Path(os.environ.get("CHORD_HUB") or root / "hub")


def checked_files(root: Path, study: str, lock: Lock | None, wanted: Wanted) -> list[tuple[str, Path]]:
    """The files of a repository that `wanted` asks for, by name, each with the hash that the lock file has.

    Raises UserError if it was never fetched, or if files are missing or not what was fetched: one line for each.
    """
    remedy = f"run `chord fetch --study {study}` where there is a network"
    locked = lock.find(wanted) if lock else None
    if locked is None:
        found = "no lock file" if lock is None else "nothing of it in the lock file"
        raise UserError(
            f"{wanted}: found {found} config/locks/{study}.json, expected it pinned at {wanted.revision}; {remedy}"
        )
    folder = repository_folder(root, locked.kind, locked.name, locked.commit)
    files = {name: folder / name for name in _asked(locked.files, wanted)}
    faults = {path: fault for name, path in files.items() if (fault := _altered(path, locked.files[name]))}
    if faults:
        raise UserError("\n".join(f"{path}: {fault}; {remedy}" for path, fault in faults.items()))
    return list(files.items())


def _altered(path: Path, expected: LockedFile) -> str | None:
    if not path.is_file():
        return f"found no such file, expected {expected.size} bytes as in the lock file"
    if (size := path.stat().st_size) != expected.size:
        return f"found {size} bytes, expected {expected.size} as in the lock file"
    if (digest := file_sha256(path)) != expected.sha256:
        return f"found SHA-256 {digest}, expected {expected.sha256} as in the lock file: the file was altered"
    return None


def _check_offline(root: Path, study: Study, lock: Lock | None, wanted: list[Wanted]) -> int:
    """How many files are here. Raises UserError that names every one which is not what the lock file says."""
    faults, count = list[str](), 0
    for one in wanted:
        try:
            count += len(checked_files(root, study.name, lock, one))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return count


def _asked(names: Iterable[str], wanted: Wanted) -> list[str]:
    return sorted({name for pattern in wanted.patterns for name in matching(names, pattern)})


# --- hub -----------------------------------------------------------------------------------------

# Files come one by one through `http_get`, not through `snapshot_download`: that one (huggingface_hub 2.4) begins a
# file anew after its process has died, and looks at the size of what arrived but not at its hash.


class Listing(NamedTuple):
    """What the hub lists of one repository at one commit: of each wanted file its size and its hash, by name."""

    wanted: Wanted
    locked: LockedRepository | None
    commit: str
    folder: Path  # where the files go
    files: dict[str, Any]


def _fetched(
    root: Path, study: Study, lock: Lock | None, wanted: list[Wanted], mirror: str | None
) -> Iterator[LockedRepository]:
    """Every repository, brought and checked. All are looked up first, so that a full disk is known before."""
    # Without a token False: not that of a file either. The token is sent to the hub and goes nowhere else.
    api = HfApi(endpoint=mirror.rstrip("/") if mirror else None, token=os.environ.get("HF_TOKEN") or False)
    listings = [_listing(root, api, one, lock.find(one) if lock else None) for one in wanted]
    expected = [(one.folder / name, file.size) for one in listings for name, file in one.files.items()]
    needed = sum(size for path, size in expected if not path.exists())
    folder = _hub_folder(root)
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if needed and free < needed + SPARE_BYTES:
        raise UserError(
            f"{folder}: found {free / 2**30:.1f} GiB free, expected {(needed + SPARE_BYTES) / 2**30:.1f} GiB for what"
            f" study {study.name} lacks; free some, or name another folder in CHORD_HUB"
        )
    for one in listings:
        files: dict[str, LockedFile] = {}
        for number, name in enumerate(sorted(one.files), start=1):
            shown = f"{one.wanted}: {name} ({number} of {len(one.files)}, {one.files[name].size:,} bytes)"
            print(shown, file=sys.stderr, flush=True)
            files[name] = _brought(api, one, name)
        kind, name, revision = one.wanted[:3]
        yield LockedRepository(kind=kind, name=name, revision=revision, commit=one.commit, files=files)


def _listing(root: Path, api: HfApi, wanted: Wanted, locked: LockedRepository | None) -> Listing:
    """The wanted files at the pinned commit, or at the revision that the study names.

    Raises UserError where the repository or the commit is gone, closed, or lacks a file.
    """
    kind, name, revision = wanted.kind, wanted.name, locked.commit if locked else wanted.revision
    with _told(str(wanted), revision, pinned=locked is not None):
        info: Any = api.repo_info(name, repo_type=kind, revision=revision, files_metadata=True, timeout=60)
    commit = str(info.sha)
    if not re.fullmatch(COMMIT, commit) or (re.fullmatch(COMMIT, revision) and commit != revision):
        raise UserError(f"{wanted}: found commit {commit}, expected {revision}: it has moved")
    there: dict[str, Any] = {one.rfilename: one for one in info.siblings or ()}
    names = sorted(locked.files) if locked else _asked(there, wanted)
    lacking = [name for name in names if name not in there]
    lacking += [pattern for pattern in wanted.required if not matching(names, pattern)]
    if lacking:
        raise UserError(f"{wanted} at {commit}: found no {lacking[0]}, expected it there")
    folder = repository_folder(root, kind, name, commit)
    return Listing(wanted, locked, commit, folder, {name: there[name] for name in names})


def _brought(api: HfApi, listing: Listing, name: str) -> LockedFile:
    """The file, downloaded unless it is there. Raises UserError, and leaves none, if it is another.

    A download that was cut off leaves `NAME.part` and goes on there; one that is too long begins anew.
    """
    path, size, wanted = listing.folder / name, listing.files[name].size, listing.wanted
    made = _looked_at(path, listing, name)
    if isinstance(made, LockedFile):
        return made
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        lock(file.fileno(), part)
        if not part.exists():  # another process brought it while this one waited
            return _brought(api, listing, name)
        start = file.seek(0, os.SEEK_END)
        if start > size:
            start = file.seek(0)
            file.truncate()
        place: Any = {"repo_type": wanted.kind, "revision": listing.commit, "endpoint": api.endpoint}
        headers = build_hf_headers(token=api.token) | {"Accept-Encoding": "identity"}
        with _told(f"{wanted}: {name}", listing.commit, pinned=True):
            address = hf_hub_url(wanted.name, name, **place)
            http_get(address, file, resume_size=start, headers=headers, expected_size=size or None)
        file.flush()
        os.fsync(file.fileno())
        made = _looked_at(part, listing, name)
        if isinstance(made, str):
            part.unlink()
            raise UserError(f"{wanted} at {listing.commit}: {name}: {made}; it was not kept")
        os.replace(part, path)
    sync_folder(path.parent)
    return made


def _looked_at(path: Path, listing: Listing, name: str) -> LockedFile | str:
    """The file as the lock file has it, or why it is not what the hub lists and the lock file says."""
    if not path.is_file():
        return "found no such file"
    listed, locked = listing.files[name], listing.locked and listing.locked.files[name]
    if (size := path.stat().st_size) != listed.size:
        return f"found {size} bytes, expected {listed.size} as the hub lists"
    made = LockedFile(size=size, sha256=file_sha256(path))
    if listed.lfs:
        kind, found, expected = "sha256", made.sha256, listed.lfs.sha256
    else:  # small, and known by the name that git has for its content
        kind, found, expected = "git", git_hash(path.read_bytes()), listed.blob_id
    if found != expected:
        return f"found {kind} hash {found}, expected {expected} as the hub lists: it was damaged on the way"
    if locked and made != locked:
        return f"found SHA-256 {made.sha256}, expected {locked.sha256} as in the lock file: the hub has other bytes now"
    return made


@contextmanager
def _told(what: str, revision: str, pinned: bool) -> Generator[None]:
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

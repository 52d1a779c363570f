"""What a study needs of a model hub -> files in `hub/`, and a lock file that pins them to the byte.

chord fetch --study math [--update] [--offline] [--mirror URL]

Run it once where there is a network, before Snakemake: compute nodes often have none, so no job of the DAG does this.
What is there is not brought again, a file that was cut off goes on where it ended. Without a lock file the revisions of
the study are looked up and pinned; with one exactly its commits and bytes are accepted, or else refused. `--update`
pins anew. `--offline`, or HF_HUB_OFFLINE=1, checks what is there and brings nothing. A token for closed repositories
is taken from HF_TOKEN, and from nowhere else, and is written nowhere.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from chord.config.load import load
from chord.config.lock import Lock, LockedFile, LockedRepository, Wanted, lock_path, read_lock, repositories
from chord.config.study import Study
from chord.provenance.fetched import fault_of, hub_folder, repository_folder
from chord.provenance.files import UserError, write_atomically

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
    from chord.provenance.hub_client import Client

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

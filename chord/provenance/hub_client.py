"""Files of a model hub over the network, through huggingface_hub: listed at one commit, brought whole or not at all.

A download that was cut off leaves `NAME.part` and goes on there. What arrives must have the size and the hash that the
hub lists, and those of the lock file where there is one. The token is sent to the hub and goes nowhere else.
"""

import hashlib
import os
import re
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

from chord.config.lock import COMMIT, LockedFile, LockedRepository, Wanted
from chord.provenance.files import UserError, lock, sync_folder
from chord.provenance.hashing import file_sha256


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

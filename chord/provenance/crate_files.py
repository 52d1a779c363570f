"""Files and folders of a crate as entities: sizes, formats, hashes, and which entity a manifest's content is."""

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

from rocrate.rocrate import ROCrate

from chord.provenance.crate_graph import Ref, add, add_file, add_folder, ref, say
from chord.provenance.crate_study import COPIED, README, README_TEXT, Study, title_of
from chord.provenance.hashing import TIMESTAMP, file_sha256, files_below
from chord.provenance.manifest_parts import Content

MERKLE = "SHA-256 Merkle root over the folder's entries, see crate/chord/provenance/hashing.py"
SNAKEFILE = "crate/Snakefile"
_FORMATS = {
    ".cff": "application/yaml",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".png": "image/png",
    ".py": "text/x-python",
    ".rst": "text/x-rst",
    ".safetensors": "application/octet-stream",
    ".smk": "text/plain",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
}
_TEXT = ("", ".txt", ".log", ".def", ".sh", ".jinja")
# What an environment file conforms to, by its name.
_ENVIRONMENTS = {
    "*.txt": "https://pip.pypa.io/en/stable/reference/requirements-file-format/",
    "*.yaml": "https://docs.conda.io/",
    "Containerfile": "https://docs.docker.com/reference/dockerfile/",
}


def encoding(path: str) -> str:
    """The media type of a file, by its name."""
    suffix = Path(path).suffix
    return _FORMATS.get(suffix) or ("text/plain" if suffix in _TEXT else "application/octet-stream")


def environment_rules(path: str) -> str | None:
    """The address of what an environment file of the crate conforms to; None for any other file."""
    inside = Path(path).parent.as_posix() == f"{COPIED}/envs"
    return next((rules for shape, rules in _ENVIRONMENTS.items() if inside and fnmatch(Path(path).name, shape)), None)


def add_study(crate: ROCrate, study: Study, verify: bool) -> None:
    """Adds every file and folder that stands in the study. With `verify` files inside of folders get hashes too."""
    names = _names(study)
    for path, content in study.stands.items():
        about = {"name": names.get(path, path), "contentSize": str(content.bytes)}
        if content.kind == "file":
            add_file(crate, path, about | {"encodingFormat": encoding(path), "sha256": content.sha256})
            continue
        root = add(
            crate,
            f"#merkle-{content.sha256}",
            "PropertyValue",
            {"propertyID": MERKLE, "name": MERKLE, "value": content.sha256},
        )
        parts = [_part(crate, study.folder, part, verify) for part in _inside(study.folder, path)]
        add_folder(crate, path, about | {"identifier": root, "hasPart": parts})


def add_copies(crate: ROCrate, study: Study) -> dict[str, str]:
    """Adds the project's files that the crate keeps; their hashes by path in the crate."""
    hashes: dict[str, str] = {}
    for path, source in study.copies.items():
        hashes[path] = file_sha256(source)
        about = {"name": path, "contentSize": str(source.stat().st_size), "encodingFormat": encoding(path)}
        if rules := environment_rules(path):
            about |= {"conformsTo": add(crate, rules, "CreativeWork", {"name": rules})}
        if path != SNAKEFILE:
            add_file(crate, path, about | {"sha256": hashes[path]})
    return hashes


def add_readme(crate: ROCrate, study: Study) -> None:
    """Adds README.md, which the profile wants to be about the crate: ours, unless the study has one."""
    if README not in study.stands:
        content = README_TEXT.encode()
        about = {"name": README, "contentSize": str(len(content)), "encodingFormat": encoding(README)}
        add_file(crate, README, about | {"sha256": hashlib.sha256(content).hexdigest()})
    say(crate, README, "about", ref("./"))


def content_ref(crate: ROCrate, study: Study, copied: Mapping[str, str], content: Content) -> Ref:
    """The entity that has these very bytes: a file of the study, a copied one, or a name for bytes that are elsewhere.

    The last is no file of the crate: what was read from outside of study and project, or has been replaced since.
    """
    stands = study.stands.get(content.path) if content.root == "study" else None
    if stands is not None and stands.sha256 == content.sha256:
        return ref(quote(content.path) + ("/" if content.kind == "folder" else ""))
    copy = f"crate/{content.path}"
    if content.root != "study" and copied.get(copy) == content.sha256:
        return ref(quote(copy))
    name = content.path if content.root != "elsewhere" else Path(content.path).name
    about = {
        "name": name,
        "description": f"{content.kind} with the SHA-256 given; its bytes are not in this crate",
        "sha256": content.sha256,
        "contentSize": str(content.bytes),
    }
    return add(crate, f"#content-{content.sha256}", "CreativeWork", about)


def _names(study: Study) -> dict[str, str]:
    """What outputs are called: the title for a table or figure, else output and verb."""
    names: dict[str, str] = {}
    for manifest in study.manifests.values():
        title = title_of(study.folder, manifest)
        for name, content in manifest.outputs.items():
            if content.root == "study":
                shown = f"{manifest.extra['artefact']}: {title}" if title else f"{name} of {manifest.verb}"
                names[content.path] = f"{shown} ({content.path})"
    return names


def _part(crate: ROCrate, folder: Path, path: str, verify: bool) -> Ref:
    about = {"name": path, "contentSize": str((folder / path).stat().st_size), "encodingFormat": encoding(path)}
    return add_file(crate, path, about | ({"sha256": file_sha256(folder / path)} if verify else {}))


def _inside(folder: Path, path: str) -> list[str]:
    found = (file for file in files_below(folder / path) if file.name != TIMESTAMP)
    return sorted(file.relative_to(folder).as_posix() for file in found)

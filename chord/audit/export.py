"""A study as a Provenance Run Crate 0.5: in place, or as a folder of its own that can be given away.

    chord export results/demo                 results/demo becomes a crate: metadata, and crate/ beside
    chord export results/demo --out FOLDER    a copy of its files that is one; --link for hard links

In place, `ro-crate-metadata.json`, `README.md` and `crate/` (workflow, configuration, code, pins) are added, and
nothing else is touched. The metadata names no machine and no absolute path; the study's own logs and manifests may.

All that the profile requires and recommends is met, but for two checks. "SoftwareApplication id" wants absolute
addresses, also of the workflow, which another check wants to be a file of the crate: crate/Snakefile. "Action
endTime" fails for an attempt that was killed outright and never repeated: nobody wrote down when it ended.

Nothing depends on the clock, on chance or on the machine: the same study gives the same bytes.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from pydantic import JsonValue
from rocrate.model import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from chord import VERBS, module_of
from chord.config.reading import read_yaml
from chord.errors import UserError
from chord.provenance.digest import PROJECT, code_digest
from chord.provenance.environment import scrubbed
from chord.provenance.files import (
    TIMESTAMP,
    atomic_folder,
    content_hash,
    file_sha256,
    files_below,
    size_bytes,
    write_atomically,
)
from chord.provenance.ledger import LEDGER, Attempts, ledger_for, read_attempts
from chord.provenance.lineage import Lineage, read_lineage
from chord.provenance.manifest import Content, Manifest
from chord.steps import STEPS, step_of

METADATA = "ro-crate-metadata.json"
# What a crate keeps of the project: workflow, configuration, code, pins.
FILES = ("CITATION.cff", "LICENSE", "README.md", "Snakefile", "pyproject.toml")
FOLDERS = ("chord", "config", "envs", "profiles", "workflow")
UNFINISHED = "state"  # of an interrupted training; no output


class Attempt(NamedTuple):
    """One run of a verb; `made` is its manifest if that still stands, `problem` says why it left no result.

    Where the end was not recorded, `ended` is when the next attempt at the same manifest began, or None.
    """

    id: str
    verb: str
    source: str  # path of the verb's module in the project
    manifest: str
    command: tuple[str, ...]
    started: str
    ended: str | None
    end_recorded: bool
    problem: str | None
    made: Manifest | None


class Study(NamedTuple):
    """A results folder: `manifests` and `stands` by path in it; `copies` by path in the project."""

    folder: Path
    project: Path
    citation: Mapping[str, Any]  # CITATION.cff
    manifests: dict[str, Manifest]
    attempts: list[Attempt]
    stands: dict[str, Content]
    copies: dict[str, Content]


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
    starts: dict[str, Mapping[str, Any]] = {
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


# --- the metadata --------------------------------------------------------------------------------

Crate = Any  # an ROCrate; its library has no types
COPIED = "crate"  # where a crate keeps what it needs of the project
README = "README.md"
CONFIGURATION, ARTEFACT = {"@id": "#parameter-configuration"}, {"@id": "#parameter-artefact"}
TEAM = {"@id": "#contributors"}  # the agent of every action: a study does not record which person ran a job
README_TEXT = """# A Provenance Run Crate

This folder is a study with its provenance. `ro-crate-metadata.json` (RO-Crate 1.1, profile Provenance Run Crate 0.5)
names every file with its SHA-256, and every job that ran, also those that failed, with what it read, wrote and was
told. Tables and figures stand at the top; `crate/` holds workflow, configuration, code and pinned packages;
`provenance/ledger.jsonl` is the log of all attempts. Written by `python -m chord export`.
"""
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
COMPLETED, FAILED = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
SNAKEMAKE = "https://snakemake.readthedocs.io/"
SWHID = "https://identifiers.org/swh:1:"
MERKLE = "SHA-256 Merkle root over the folder's entries, see crate/chord/provenance/files.py"
# The types of parameters; what a verb ran on is no parameter.
PARAMETERS = {"seed": "Integer", "environment": "Text", "decided by": "PropertyValue"}
MACHINE_NAMES = ("SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION")  # not in the crate; they decide nothing
# Media types by the ends of names.
FORMATS = {
    "application": {".cff": "yaml", ".json": "json", ".jsonl": "jsonl", ".toml": "toml", ".yaml": "yaml"},
    "image": {".png": "png", ".svg": "svg+xml"},
    "text": dict.fromkeys(("", ".txt", ".log", ".def", ".sh", ".smk", ".jinja"), "plain")
    | {".html": "html", ".md": "markdown", ".py": "x-python", ".rst": "x-rst", ".tsv": "tab-separated-values"},
}
# What the files in envs/ that install packages conform to.
ENVIRONMENTS = {
    ".txt": "https://pip.pypa.io/en/stable/reference/requirements-file-format/",
    ".yaml": "https://docs.conda.io/",
    "Containerfile": "https://docs.docker.com/reference/dockerfile/",
}
# The folders of an absolute path with two parts or more; not a slash in a tag, a fraction, an address or a pattern.
_FOLDERS = re.compile(r"(?<![\w.:/~)\]])~?/(?:[^\s/'\",:;<>()\[\]]+/)+")


def metadata_of(study: Study, verify: bool) -> str:
    """The text of ro-crate-metadata.json for a study. With `verify` files inside folders are hashed too."""
    crate = cast(Crate, ROCrate(version="1.1"))
    # Terms of the run profiles (sha256 and environment among them), and one that RO-Crate 1.1 lacks.
    crate.metadata.extra_contexts.append("https://w3id.org/ro/terms/workflow-run/context")
    crate.metadata.extra_terms["buildInstructions"] = "https://codemeta.github.io/terms/buildInstructions"
    cited, name, licence = study.citation, study.folder.absolute().name, study.citation["license"]
    teams = [author["name"] for author in cited["authors"] if "name" in author]
    agent = teams[0] if teams else f"The contributors of {cited['title']}"
    team = _add(crate, TEAM["@id"], "Organization", name=agent, url=_home(study))
    text = f"SPDX licence {licence}; its text is in crate/LICENSE"
    spdx = f"https://spdx.org/licenses/{licence}"
    about = {
        "name": f"{cited['title']}: study {name}",
        "description": f"All files of study {name}, and how each was made: {len(study.attempts)} attempts, "
        f"{sum(attempt.problem is not None for attempt in study.attempts)} of them without a result. "
        f"{COPIED}/ holds workflow, configuration, code and pins as they were when the crate was written.",
        "datePublished": max(attempt.ended or attempt.started for attempt in study.attempts),
        "conformsTo": [_add(crate, one, "CreativeWork", name=of, version=at) for one, (of, at) in PROFILES.items()],
        "author": [_person(crate, author) for author in cited["authors"] if "name" not in author] or team,
        "publisher": team,
        "license": _add(crate, spdx, "CreativeWork", name=licence, identifier=licence, description=text),
        "citation": list(_papers(crate, cited)),
    }
    for key, value in _tidy(about).items():
        crate.root_dataset[key] = value
    _add_files(crate, study, verify)
    _add_jobs(crate, study)
    _add_workflow(crate, study)
    kinds = ("CreateAction", "ControlAction", "OrganizeAction")
    crate.root_dataset["mentions"] = [action for kind in kinds for action in crate.get_by_type(kind)]
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def without_places(text: str) -> str:
    """`text` without secrets, and with the last part alone of absolute paths: where a machine keeps its files."""
    return _FOLDERS.sub("", scrubbed(text).replace("file://", ""))


def parts_of(folder: Path) -> list[Path]:
    """Files in a folder that a job made, without the mark that Snakemake leaves there after the job."""
    return [file for file in files_below(folder) if file.name != TIMESTAMP]


def _add(crate: Crate, identifier: str, kind: str, /, **about: Any) -> Entity:
    """Adds something that is no file; an id of our own starts with `#`."""
    entity = ContextEntity(crate, identifier, {"@type": kind, **_tidy(about)})
    crate.add(entity)
    return entity


def _tidy(about: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None or empty; a list names an entity once, and RO-Crate 1.1 wants no list of one."""
    several = {key: cast("list[Any]", some) for key, some in about.items() if isinstance(some, list)}
    lists = {key: [*{one["@id"]: one for one in some}.values()] for key, some in several.items()}
    plain = {key: some[0] if len(some) == 1 else some for key, some in lists.items()}
    return {key: value for key, value in {**about, **plain}.items() if value not in (None, [], "")}


def _ref(path: str) -> dict[str, str]:
    """How other entities name a file of the crate."""
    return {"@id": quote(path)}


def _home(study: Study) -> str | dict[str, str]:
    return study.citation.get("repository-code") or study.citation.get("url") or _ref(f"{COPIED}/CITATION.cff")


def _full_name(person: Mapping[str, Any]) -> str:
    return f"{person.get('given-names', '')} {person.get('family-names', '')}".strip()


def _person(crate: Crate, person: Mapping[str, Any]) -> Entity:
    name, place = _full_name(person), person.get("affiliation")
    affiliation = _add(crate, f"#{quote(place)}", "Organization", name=place, url=place) if place else TEAM
    return _add(crate, person.get("orcid") or f"#{quote(name)}", "Person", name=name, affiliation=affiliation)


def _papers(crate: Crate, cited: Mapping[str, Any]) -> Iterator[Entity]:
    for work in cited.get("references", []):
        numbers = [str(one.get("value", "")).partition("arXiv:")[2] for one in work.get("identifiers", [])]
        address = next((f"https://arxiv.org/abs/{number}" for number in numbers if number), work.get("url"))
        if address:
            # Authors as one text: RO-Crate wants an affiliation of a person, and CITATION.cff does not know theirs.
            about = {"name": work.get("title"), "author": ", ".join(map(_full_name, work.get("authors", [])))}
            yield _add(crate, address, "ScholarlyArticle", datePublished=str(work.get("year", "")), **about)


# --- files -------------------------------------------------------------------------------------


def _add_files(crate: Crate, study: Study, verify: bool) -> None:
    """Adds the copied files of the project, README.md, and all files of the study."""
    for path, content in study.copies.items():
        file = Path(path)
        rules = ENVIRONMENTS.get(file.suffix or file.name) if file.parent == Path("envs") else None
        conforms = _add(crate, rules, "CreativeWork", name=rules) if rules else None
        example = CONFIGURATION if path.startswith("config/") else None
        _add_file(crate, content.path, content.bytes, content.sha256, conformsTo=conforms, exampleOfWork=example)
    if README not in study.stands:
        _add_file(crate, README, len(README_TEXT.encode()), hashlib.sha256(README_TEXT.encode()).hexdigest())
    names = _names(study)
    for path, content in study.stands.items():
        name = names.get(path, path)
        if content.kind == "file":
            # What jobs put at the top of a study are tables, figures and pages.
            example = ARTEFACT if path in names and "/" not in path else None
            _add_file(crate, path, content.bytes, content.sha256, name=name, exampleOfWork=example)
            continue
        parts = [
            _add_file(crate, str(part.relative_to(study.folder)), size_bytes(part), file_sha256(part) if verify else "")
            for part in parts_of(study.folder / path)
        ]
        sha256 = content.sha256
        root = _add(crate, f"#merkle-{sha256}", "PropertyValue", propertyID=MERKLE, name=MERKLE, value=sha256)
        about = {"name": name, "contentSize": str(content.bytes), "identifier": root, "hasPart": parts}
        crate.add_dataset(dest_path=path, properties=_tidy(about))
    crate.update_jsonld({"@id": README, "about": {"@id": "./"}})  # as the profile wants it


def _add_file(crate: Crate, path: str, size: int, sha256: str, **about: Any) -> Any:
    suffix = Path(path).suffix
    formats = [f"{kind}/{names[suffix]}" for kind, names in FORMATS.items() if suffix in names]
    media_type = formats[0] if formats else "application/octet-stream"
    own = {"name": path, "contentSize": str(size), "encodingFormat": media_type, "sha256": sha256}
    return crate.add_file(dest_path=path, properties=_tidy(own | about))


def _names(study: Study) -> dict[str, str]:
    """What outputs are called: the title for a table or figure, which its JSON holds, else output and verb."""
    names: dict[str, str] = {}
    for manifest in study.manifests.values():
        outputs = {name: content.path for name, content in manifest.outputs.items() if content.root == "study"}
        files = [
            study.folder / path for path in outputs.values() if path.endswith(".json") and "artefact" in manifest.extra
        ]
        made: list[JsonValue] = [json.loads(file.read_bytes()) for file in files if file.is_file()]
        title = made[0].get("title") if made and isinstance(made[0], dict) else None
        for name, path in outputs.items():
            shown = f"{manifest.extra['artefact']}: {title}" if title else f"{name} of {manifest.verb}"
            names[path] = f"{shown} ({path})"
    return names


def _bytes_of(crate: Crate, study: Study, content: Content) -> Entity | dict[str, str]:
    """The entity that has these very bytes: a file of the study, a copied one, or a name for bytes that are elsewhere.

    The last is no file of the crate: what was read from outside of study and project, or has been replaced since.
    """
    held = (study.stands if content.root == "study" else study.copies).get(content.path)
    if held is not None and held.sha256 == content.sha256:
        return _ref(held.path + ("/" if held.kind == "folder" else ""))
    about = {
        "name": content.path if content.root != "elsewhere" else Path(content.path).name,
        "description": f"{content.kind} with the SHA-256 given; its bytes are not in this crate",
        "sha256": content.sha256,
        "contentSize": str(content.bytes),
    }
    return _add(crate, f"#content-{content.sha256}", "CreativeWork", **about)


# --- actions -----------------------------------------------------------------------------------


def _add_jobs(crate: Crate, study: Study) -> None:
    """Adds the tools and the steps that ran, and each attempt as an action."""
    jobs = [(one, _step_name(one), _tool_id(study, one)) for one in study.attempts]
    tools = {name: _add_tool(crate, study, name, one) for name, one in {tool: one for one, _, tool in jobs}.items()}
    steps: dict[str, Entity] = {}
    order = [*STEPS]
    first = {name: one for one, name, _ in sorted(jobs, key=lambda job: job[0].made is not None)}
    for name in sorted(first, key=lambda name: (order.index(name) if name in order else len(order), name)):
        one, position = first[name], order.index(name) if name in order else len(order)
        pinned = one.made.step.split("+") if one.made else []
        files = [f"envs/{part}.{ending}" for part in pinned for ending in ("yaml", "txt")]
        about = {
            "name": name,
            "description": VERBS[one.verb.removeprefix("chord ")].summary if name in order else "started by hand",
            "position": str(position + 1),
            "buildInstructions": [_ref(f"{COPIED}/{path}") for path in files if path in study.copies],
        }
        ran = [tools[tool] for _, other, tool in jobs if other == name]
        steps[name] = _add(crate, f"#step-{name.replace(' ', '-')}", "HowToStep", workExample=ran, **about)
    for attempt, step, tool in jobs:
        _add_actions(crate, study, attempt, steps[step], tools[tool])


def _step_name(attempt: Attempt) -> str:
    """The rule that ran it; where none did, its verb says so."""
    flags = [word.removeprefix("--") for word in attempt.command if word.startswith("--")]
    step = step_of(attempt.verb, attempt.manifest, flags)
    return step.rule if step else f"{attempt.verb} without a rule"


def _add_actions(crate: Crate, study: Study, attempt: Attempt, step: Entity, tool: Entity) -> None:
    """Adds what ran, and what Snakemake did to run it. An attempt without a manifest has no recorded inputs."""
    outcome = {"actionStatus": FAILED if attempt.problem else COMPLETED, "error": attempt.problem}
    about: dict[str, Any] = {
        "name": f"{step['name']}: {attempt.manifest.removesuffix('.manifest.json')}",
        "instrument": tool,
        "agent": TEAM,
        "startTime": attempt.started,
        "endTime": attempt.ended,
        "result": [_ref(LEDGER)],
    }
    said = [f"Command: {' '.join(map(without_places, attempt.command))}."]
    if (made := attempt.made) is not None:
        values = {
            kind: [_value(crate, made.verb, kind, *pair) for pair in some] for kind, some in _settings(made).items()
        }
        about["environment"] = values.pop("environment")
        read = [_bytes_of(crate, study, content) for content in made.inputs.values()]
        about["object"] = [*read, *itertools.chain(*values.values())]
        wrote = [_bytes_of(crate, study, content) for content in made.outputs.values()]
        about["result"] = [*wrote, _ref(attempt.manifest)]
        if made.git.dirty:
            said.append(f"The tree differed from the commit; SHA-256 of the difference: {made.git.diff_sha256}.")
    else:
        lines = "It left nothing but its lines in the ledger."
        said.append(lines if attempt.problem else "Its outputs were replaced since.")
    if not attempt.end_recorded and attempt.ended:
        said.append("Its end was not recorded; endTime is when the next attempt at the same outputs began.")
    action = _add(crate, f"#attempt-{attempt.id}", "CreateAction", description=" ".join(said), **about, **outcome)
    about = {"name": f"Snakemake's job for {step['name']}", "instrument": step, "object": action}
    _add(crate, f"#control-{attempt.id}", "ControlAction", **about, **outcome)


def _settings(made: Manifest) -> dict[str, list[tuple[str, JsonValue]]]:
    """Names and values of seeds, deciding parts of the configuration, environment, and what it ran on."""
    ran_on: dict[str, JsonValue] = {
        "python": made.installed.python,
        "packages": dict(made.installed.packages),
        "packages, SHA-256 over all": made.installed.all_sha256,
        "pins, SHA-256 by file": dict(made.installed.pins),
        "machine": dict(made.machine),
        "device": made.extra.get("device"),
    }
    return {
        "seed": [*made.seeds.items()],
        "decided by": [*made.decided_by.items()],
        "environment": [(name, value) for name, value in made.environment.items() if name not in MACHINE_NAMES],
        "ran on": [(name, value) for name, value in ran_on.items() if value],
    }


def _value(crate: Crate, verb: str, kind: str, name: str, value: JsonValue) -> Entity:
    """One value of one parameter of a verb; the same entity for every job that had it."""
    text = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    shown = without_places(text) if isinstance(text, str) else text
    parameter, formal = _parameter_id(verb, kind, name), None
    if kind in PARAMETERS:
        formal = _add(crate, parameter, "FormalParameter", name=f"{kind}: {name}", additionalType=PARAMETERS[kind])
    mark = hashlib.sha256(json.dumps([parameter, shown]).encode()).hexdigest()[:16]
    about = {"name": name, "value": "(empty)" if shown == "" else shown, "exampleOfWork": formal}
    return _add(crate, f"#value-{mark}", "PropertyValue", **about)


def _parameter_id(verb: str, kind: str, name: str) -> str:
    return quote(f"#parameter-{verb}-{kind}-{name}".replace(" ", "-"), safe="#")


def _add_tool(crate: Crate, study: Study, tool: str, attempt: Attempt) -> Entity:
    """Adds a verb at one state of its code, with the parameters that attempts with the same code had."""
    verb, made, source = attempt.verb, attempt.made, f"{COPIED}/{attempt.source}"
    about: dict[str, Any] = {"name": verb, "url": _ref(source) if attempt.source in study.copies else _home(study)}
    if made is None:
        about |= {"softwareVersion": "not recorded", "description": "The code digest of an attempt is in its manifest."}
        return _add(crate, tool, "SoftwareApplication", **about)
    commit = f"{made.git.commit or f'none ({made.git.why})'}{', tree not clean' if made.git.dirty else ''}"
    about["softwareVersion"] = without_places(f"code digest {made.code.digest}, git commit {commit}")
    is_copied = False
    with suppress(UserError):
        is_copied = code_digest(verb, made.code.uses, study.project) == made.code.digest
    has = "has" if is_copied else "does not have"
    about["description"] = f"The code in crate/chord {has} the digest of the code that ran."
    same = [one for one in study.manifests.values() if (one.verb, one.code.digest) == (verb, made.code.digest)]
    for key, kinds in (("input", ("decided by", "seed")), ("environment", ("environment",))):
        names = {(kind, name) for one in same for kind in kinds for name, _ in _settings(one)[kind]}
        about[key] = [{"@id": _parameter_id(verb, *name)} for name in sorted(names)]
    return _add(crate, tool, "SoftwareApplication", **about)


def _tool_id(study: Study, attempt: Attempt) -> str:
    """An absolute address, as the profile recommends: the SWHID of the commit, or of the file that the crate keeps.

    It follows from the content alone; it leads somewhere once the repository is archived at Software Heritage.
    """
    made, source = attempt.made, attempt.source
    state = f"code-{made.code.digest}{'-dirty' if made.git.dirty else ''}" if made else "not-recorded"
    if made is not None and made.git.commit:
        return f"{SWHID}rev:{made.git.commit};path=/{source}#{state}"
    if source not in study.copies:
        return f"#tool-{attempt.verb.replace(' ', '-')}-{state}"
    content = (study.project / source).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return f"{SWHID}cnt:{blob}#{state}"


# --- workflow ----------------------------------------------------------------------------------


def _add_workflow(crate: Crate, study: Study) -> None:
    """Adds the Snakefile as main entity, and its run, however many times Snakemake was called for it."""
    cited, study_name = study.citation, study.folder.absolute().name
    newest = max(study.manifests.values(), key=lambda one: one.ended)
    version = newest.installed.packages.get("snakemake") or "not recorded"
    tools = crate.get_by_type("SoftwareApplication")
    engine = _add(crate, SNAKEMAKE, "SoftwareApplication", name="Snakemake", url=SNAKEMAKE, version=version)
    files = crate.get_by_type("File")
    settings, artefacts = (
        [file for file in files if file.properties().get("exampleOfWork") == parameter]
        for parameter in (CONFIGURATION, ARTEFACT)
    )
    for name, examples in (("configuration", settings), ("artefact", artefacts)):
        if examples:
            _add(crate, f"#parameter-{name}", "FormalParameter", name=name, additionalType="File")
    rules = _add(crate, BIOSCHEMAS, "CreativeWork", name="Bioschemas ComputationalWorkflow", version="1.0-RELEASE")
    about: dict[str, Any] = {
        "name": cited["title"],
        "version": str(cited.get("version", "")) or newest.git.commit or "not recorded",
        "url": _home(study),
        "license": crate.license,
        "conformsTo": rules,
        "runtimePlatform": engine,
        "step": crate.get_by_type("HowToStep"),
        "hasPart": tools,
        "input": CONFIGURATION if settings else None,
        "output": ARTEFACT if artefacts else None,
        "buildInstructions": [file for file in files if "conformsTo" in file],
    }
    path, kinds = f"{COPIED}/Snakefile", ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
    about = {**crate.get(path, {}), "@type": kinds, **_tidy(about)}
    workflow = crate.add_workflow(None, path, properties=about, main=True, lang="snakemake", lang_version=version)
    last = {attempt.manifest: attempt for attempt in study.attempts}
    failed = sorted(path for path, attempt in last.items() if attempt.problem)
    outcome = {
        "agent": TEAM,
        "startTime": study.attempts[0].started,
        "endTime": crate.root_dataset["datePublished"],
        "actionStatus": FAILED if failed else COMPLETED,
        "error": f"last attempt without a result at: {', '.join(failed)}" if failed else None,
    }
    about = {
        "name": f"Study {study_name}",
        "description": f"All jobs that made study {study_name}, of all calls of Snakemake.",
    }
    about |= {"instrument": workflow, "object": settings, "result": artefacts or [_ref(LEDGER)]}
    run = _add(crate, "#run", "CreateAction", **about, **outcome)
    about = {"name": f"Snakemake's run of study {study_name}", "instrument": engine, "result": run}
    _add(crate, "#organize", "OrganizeAction", **about, object=crate.get_by_type("ControlAction"), **outcome)

"""What goes into a crate: the study, its files, and the rules that made them."""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rocrate.model import ContextEntity, Dataset, File
from rocrate.rocrate import ROCrate

from chord.errors import UserError
from chord.provenance import ledger as ledgers
from chord.provenance.digest import PROJECT
from chord.provenance.environment import scrubbed
from chord.provenance.files import TIMESTAMP, content_hash, files_below
from chord.provenance.files import size_bytes as bytes_in
from chord.provenance.manifest import Content, Manifest, read_manifest

# --- crate graph ---------------------------------------------------------------------------------

# The JSON-LD graph of a crate, entity by entity, through the `rocrate` library. Knows no study.
#
# Nothing in it depends on the clock, on chance or on the machine: equal entities in equal order give equal bytes.

METADATA = "ro-crate-metadata.json"
WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    WORKFLOW_PROFILE: ("Workflow RO-Crate", "1.0"),
}
# Terms of the run profiles (sha256 and environment among them), and one that RO-Crate 1.1 lacks.
_CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
_TERMS = {"buildInstructions": "https://codemeta.github.io/terms/buildInstructions"}
# The folders of an absolute path with two parts or more; not a slash in a tag, a fraction, an address or a pattern.
_PLACE = re.compile(r"(?<![\w.:/~)\]])~?/(?:[^\s/'\",:;<>()\[\]]+/)+")

Ref = dict[str, str]


def empty_crate(published: str) -> ROCrate:
    """A crate of RO-Crate 1.1 that claims the profile Provenance Run Crate 0.5; `published` is an ISO 8601 time."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_CONTEXT)
    crate.metadata.extra_terms.update(_TERMS)
    crate.metadata["conformsTo"] = [ref(crate.metadata.profile), ref(WORKFLOW_PROFILE)]
    crate.root_dataset["datePublished"] = published
    for address, (name, version) in PROFILES.items():
        add(crate, address, "CreativeWork", {"name": name, "version": version})
    crate.root_dataset["conformsTo"] = [ref(address) for address in PROFILES]
    return crate


def ref(identifier: str) -> Ref:
    """What an entity is called by in other entities."""
    return {"@id": identifier}


def add(crate: ROCrate, identifier: str, kind: str | list[str], about: Mapping[str, Any]) -> Ref:
    """Adds something that is no file; a name of our own starts with `#`. What is None or empty is left out."""
    crate.add(ContextEntity(crate, identifier, {"@type": kind, **_told(about)}))
    return ref(identifier)


def add_file(crate: ROCrate, path: str, about: Mapping[str, Any], kind: str | list[str] = "File") -> Ref:
    """Adds a file of the crate and a part of its root; `path` is relative to the crate."""
    added = File(crate, dest_path=path, properties={"@type": kind, **_told(about)})
    crate.add(added)
    return ref(added.id)


def add_folder(crate: ROCrate, path: str, about: Mapping[str, Any]) -> Ref:
    """Adds a folder of the crate and a part of its root; `path` is relative to the crate."""
    added = Dataset(crate, dest_path=path, properties=_told(about))
    crate.add(added)
    return ref(added.id)


def say(crate: ROCrate, identifier: str, name: str, value: Any) -> None:
    """Gives an entity that was added before one more property."""
    entity = crate.dereference(identifier)
    if entity is None:
        raise KeyError(f"found no entity {identifier}, expected it to be added first")
    entity[name] = value


def as_text(crate: ROCrate) -> str:
    """The metadata file."""
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def without_places(text: str) -> str:
    """`text` without secrets, and with the last part alone of absolute paths: where a machine keeps its files."""
    return _PLACE.sub("", scrubbed(text).replace("file://", ""))


def _told(about: Mapping[str, Any]) -> dict[str, Any]:
    """RO-Crate 1.1 wants one value, not a list of one."""
    lists = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in about.items()}
    return {key: value for key, value in lists.items() if value not in (None, [], "")}


# --- crate steps ---------------------------------------------------------------------------------

# Which rule of the workflow ran a verb: read from the text of the rules, without Snakemake. Knows no study.
#
# Read are the verb (`python -m chord VERB`), the manifest it is told to write, the environment file, the message. A
# rule that runs no verb, or writes no manifest, leaves no record of its own and is no step here.

_RULE = re.compile(r"^(?:rule|checkpoint)\s+(\w+)\s*:", re.MULTILINE)
_INCLUDE = re.compile(r"^include:\s*\"([^\"]+)\"", re.MULTILINE)
_VERB = re.compile(r"-m\s+(chord\s+[a-z-]+)")
_MANIFEST = re.compile(r"\bmanifest=\"results/\{+study\}+/([^\"]+)\"")
# A file, or `environment("STEP")` of workflow/rules/common.smk: the step's, which has its pins.
_ENVIRONMENT = re.compile(r"^\s*conda:\s*(?:\"(?:\.\./)*envs/|environment\(\")(\w+)", re.MULTILINE)
_MESSAGE = re.compile(r"^\s*message:\s*\"([^\"]+)\"", re.MULTILINE)
_FLAG = re.compile(r"(?<=[\s\"])--[a-z-]+(?=[\s\"])")
_WILDCARD = re.compile(r"\{+\w+\}+")


@dataclass(frozen=True)
class Step:
    """One rule: `position` counts from 1 in the order of the rules, `manifest` is a pattern for paths in the study."""

    name: str
    position: int
    verb: str
    manifest: re.Pattern[str] | None
    environment: str | None
    message: str
    flags: frozenset[str] = frozenset()  # that its command always has


def steps_of(project: Path) -> list[Step]:
    """The rules that run a verb, in the order in which the Snakefile includes them."""
    snakefile = project / "Snakefile"
    texts = [(project / name).read_text("utf-8") for name in _INCLUDE.findall(snakefile.read_text("utf-8"))]
    rules = [rule for text in texts for rule in _rules(text)]
    return [step for position, (name, body) in enumerate(rules, start=1) for step in _step(name, body, position)]


def step_for(steps: list[Step], verb: str, manifest: str, command: Collection[str] = ()) -> Step:
    """The rule that has `verb` write `manifest` (a path in the study); one named after the verb where none does.

    Of several such rules it is the one that gives most of the command's flags, and fewest that the command lacks.
    """
    fitting = [one for one in steps if one.verb == verb and one.manifest and one.manifest.fullmatch(manifest)]
    if fitting:
        words = set(command)
        return max(fitting, key=lambda one: (one.flags <= words, len(one.flags & words), -len(one.flags - words)))
    same_verb = [step for step in steps if step.verb == verb]
    if len(same_verb) == 1:
        return same_verb[0]
    last = max((step.position for step in steps), default=0)
    return Step(f"{verb} without a rule", last + 1, verb, None, None, f"{verb}, started by hand")


def _rules(text: str) -> list[tuple[str, str]]:
    found = list(_RULE.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [(match[1], text[match.end() : end]) for match, end in zip(found, ends, strict=False)]


def _step(name: str, body: str, position: int) -> list[Step]:
    verb, manifest = _VERB.search(body), _MANIFEST.search(body)
    if verb is None or manifest is None:
        return []
    environment, message = _ENVIRONMENT.search(body), _MESSAGE.search(body)
    said = re.sub(r"\{\w+\.(\w+)\}", r"{\1}", message[1]) if message else ""
    pattern = "[^/]+".join(map(re.escape, _WILDCARD.split(manifest[1])))
    found = f"envs/{environment[1]}.yaml" if environment else None
    return [Step(name, position, verb[1], re.compile(pattern), found, said, frozenset(_FLAG.findall(body)))]


# --- crate study ---------------------------------------------------------------------------------

# What a crate tells of a study: its manifests, its attempts, its files as they stand. Reads, and writes nothing.
#
# Hashes come from the manifests. A file that no manifest names (logs, the ledger, the manifests) is hashed here.

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

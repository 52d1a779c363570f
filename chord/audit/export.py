"""A study as a Provenance Run Crate 0.5: in place, or as a folder of its own that can be given away.

    chord export results/demo                 results/demo becomes a crate: metadata, and crate/ beside
    chord export results/demo --out FOLDER    a copy of its files that is one; --link for hard links

In place, `ro-crate-metadata.json`, `README.md` and `crate/` (workflow, configuration, code, pins) are added, and
nothing else is touched. The metadata names no machine and no absolute path; the study's own logs and manifests may.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml
from pydantic import JsonValue
from rocrate.rocrate import ROCrate

from chord import module_of
from chord.audit.crate_study import (
    COPIED,
    METADATA,
    README,
    README_TEXT,
    Attempt,
    Ref,
    Step,
    Study,
    add,
    add_file,
    add_folder,
    as_text,
    empty_crate,
    read_study,
    ref,
    say,
    step_for,
    steps_of,
    title_of,
    without_places,
)
from chord.errors import UserError
from chord.provenance.digest import code_digest
from chord.provenance.files import TIMESTAMP, atomic_folder, file_sha256, files_below, write_atomically
from chord.provenance.manifest import Content, Manifest

# --- crate about ---------------------------------------------------------------------------------

# What a crate says about whom and what: authors, licence, paper, from CITATION.cff. Knows no study.

CITATION = "CITATION.cff"


class About(NamedTuple):
    """Who made the study, as entities of the crate, and what the project says of itself."""

    agent: Ref
    title: str
    version: str
    address: str | Ref


def add_about(crate: ROCrate, project: Path, copied: str) -> About:
    """Adds authors, licence and paper; `copied` is where the crate keeps the project's files.

    The organisation of contributors is the agent of every action: the study does not record which person ran a job.
    """
    cited = read_citation(project)
    address: str | Ref = cited.get("repository-code") or cited.get("url") or ref(f"{copied}/{CITATION}")
    people = [author for author in cited["authors"] if "name" not in author]
    teams = [author["name"] for author in cited["authors"] if "name" in author]
    team = {"name": teams[0] if teams else f"The contributors of {cited['title']}", "url": address}
    agent = add(crate, "#contributors", "Organization", team)
    root = crate.root_dataset
    root["author"] = [_person(crate, person, agent) for person in people] or agent
    root["publisher"] = agent
    root["license"] = _licence(crate, cited["license"])
    papers = [_paper(crate, work) for work in cited.get("references", []) if _address(work)]
    if papers:
        root["citation"] = papers if len(papers) > 1 else papers[0]
    return About(agent, cited["title"], str(cited.get("version", "")), address)


def read_citation(project: Path) -> dict[str, Any]:
    """CITATION.cff, which must name title, licence and authors."""
    path = project / CITATION
    expected = "expected a citation file with title, license and authors, which the crate names"
    try:
        cited = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, {expected}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: found {' '.join(str(error).split())}, {expected}") from None
    lacking = {"title", "license", "authors"} - (cited.keys() if isinstance(cited, dict) else set())
    if lacking:
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, {expected}")
    return cited


def _person(crate: ROCrate, person: Mapping[str, Any], team: Ref) -> Ref:
    name = " ".join(str(person[key]) for key in ("given-names", "family-names") if key in person)
    place = person.get("affiliation")
    affiliation = add(crate, f"#{_slug(place)}", "Organization", {"name": place, "url": place}) if place else team
    identifier = person.get("orcid") or f"#{_slug(name)}"
    return add(crate, identifier, "Person", {"name": name, "affiliation": affiliation})


def _licence(crate: ROCrate, name: str) -> Ref:
    about = {"name": name, "identifier": name, "description": f"SPDX licence {name}; its text is in crate/LICENSE"}
    return add(crate, f"https://spdx.org/licenses/{name}", "CreativeWork", about)


def _paper(crate: ROCrate, work: Mapping[str, Any]) -> Ref:
    """Authors as one text: RO-Crate wants an affiliation of a person, and CITATION.cff does not know theirs."""
    names = [f"{one.get('given-names', '')} {one.get('family-names', '')}".strip() for one in work.get("authors", [])]
    about = {"name": work.get("title"), "author": ", ".join(names), "datePublished": str(work.get("year", ""))}
    return add(crate, _address(work), "ScholarlyArticle", about)


def _address(work: Mapping[str, Any]) -> str:
    named = [str(one.get("value", "")) for one in work.get("identifiers", [])]
    found = [value.partition(":")[2] for value in named if value.startswith("arXiv:")]
    return f"https://arxiv.org/abs/{found[0]}" if found else str(work.get("url", ""))


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


# --- crate files ---------------------------------------------------------------------------------

# Files and folders of a crate as entities: sizes, formats, hashes, and which entity a manifest's content is.

MERKLE = "SHA-256 Merkle root over the folder's entries, see crate/chord/provenance/files.py"
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


# --- crate actions -------------------------------------------------------------------------------

# Every attempt of a study as an action of the crate: which tool made what of what, when, with which settings.
#
# An attempt without a manifest has no recorded inputs, and no result but its lines in the ledger.

COMPLETED, FAILED = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
LEDGER = "provenance/ledger.jsonl"
# What a verb is told, and the type of its values; what it ran on is told beside and is no parameter.
_KINDS = {"seed": "Integer", "environment": "Text", "decided by": "PropertyValue"}
_SWHID = "https://identifiers.org/swh:1:"
# Names of machines, which decide nothing.
_NOT_TOLD = ("SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION")


class Told(NamedTuple):
    """What actions refer to: the study, who ran it, the rules, hashes of the copied files by path in the crate."""

    crate: ROCrate
    study: Study
    about: About
    steps: list[Step]
    copied: Mapping[str, str]


class Actions(NamedTuple):
    """References to what was added; `tools` by the name of the step that they serve."""

    created: list[Ref]
    controls: list[Ref]
    tools: dict[str, list[Ref]]
    used: dict[str, Step]


def add_actions(told: Told) -> Actions:
    """Adds a CreateAction and a ControlAction for each attempt, and the tools that ran."""
    found = Actions([], [], {}, {})
    for attempt in told.study.attempts:
        step = step_for(told.steps, attempt.verb, attempt.manifest, attempt.command)
        tool = _tool(told, attempt)
        found.used.setdefault(step.name, step)
        tools = found.tools.setdefault(step.name, [])
        tools += [tool] if tool not in tools else []
        action = _create_action(told, attempt, step, tool)
        about = {
            "name": f"Snakemake's job for {step.name}",
            "instrument": step_ref(step),
            "object": action,
            "actionStatus": FAILED if attempt.problem else COMPLETED,
            "error": attempt.problem,
        }
        found.created.append(action)
        found.controls.append(add(told.crate, f"#control-{attempt.id}", "ControlAction", about))
    return found


def step_ref(step: Step) -> Ref:
    """What a rule is called in the crate."""
    return ref(f"#step-{step.name.replace(' ', '-')}")


def _create_action(told: Told, attempt: Attempt, step: Step, tool: Ref) -> Ref:
    made = attempt.made
    about = {
        "name": f"{step.name}: {attempt.manifest.removesuffix('.manifest.json')}",
        "description": " ".join(_description(attempt)),
        "instrument": tool,
        "agent": told.about.agent,
        "startTime": attempt.started,
        "endTime": attempt.ended,
        "actionStatus": FAILED if attempt.problem else COMPLETED,
        "error": attempt.problem,
        "result": [ref(LEDGER)],
    }
    if made is not None:
        read = [content_ref(told.crate, told.study, told.copied, content) for content in made.inputs.values()]
        wrote = [content_ref(told.crate, told.study, told.copied, content) for content in made.outputs.values()]
        about["object"] = _unique(read + _settings(told.crate, made))
        about["result"] = _unique([*wrote, ref(quote(attempt.manifest))])
        about["environment"] = [
            _value(told.crate, made.verb, "environment", name, value) for name, value in _variables(made).items()
        ]
    return add(told.crate, f"#attempt-{attempt.id}", "CreateAction", about)


def _description(attempt: Attempt) -> list[str]:
    said = [f"Command: {' '.join(map(without_places, attempt.command))}."]
    if attempt.made is None:
        why = "It left nothing but its lines in the ledger." if attempt.problem else "Its outputs were replaced since."
        said.append(why)
    if not attempt.end_recorded and attempt.ended:
        said.append("Its end was not recorded; endTime is when the next attempt at the same outputs began.")
    if attempt.made is not None and attempt.made.git.dirty:
        said.append(f"The tree differed from the commit; SHA-256 of the difference: {attempt.made.git.diff_sha256}.")
    return said


# --- settings ----------------------------------------------------------------------------------


def _variables(made: Manifest) -> dict[str, str]:
    return {name: value for name, value in made.environment.items() if name not in _NOT_TOLD}


def _settings(crate: ROCrate, made: Manifest) -> list[Ref]:
    """Seeds, deciding parts of the configuration, and what it ran on, as values."""
    seeds = [_value(crate, made.verb, "seed", name, value) for name, value in made.seeds.items()]
    decided = [_value(crate, made.verb, "decided by", name, value) for name, value in made.decided_by.items()]
    ran_on: dict[str, JsonValue] = {
        "python": made.installed.python,
        "packages": dict(made.installed.packages),
        "packages, SHA-256 over all": made.installed.all_sha256,
        "pins, SHA-256 by file": dict(made.installed.pins),
        "machine": dict(made.machine),
        "device": made.extra.get("device"),
    }
    told = [_value(crate, made.verb, "ran on", name, value) for name, value in ran_on.items() if value]
    return seeds + decided + told


def _value(crate: ROCrate, verb: str, kind: str, name: str, value: JsonValue) -> Ref:
    """One value of one parameter of a verb; the same entity for every job that had it."""
    parameter = _parameter(verb, kind, name)
    text = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    shown = without_places(text) if isinstance(text, str) else text
    mark = hashlib.sha256(json.dumps([parameter, shown]).encode()).hexdigest()[:16]
    about = {"name": name, "value": shown if shown != "" else "(empty)"}
    if kind in _KINDS:
        told = {"name": f"{kind}: {name}", "additionalType": _KINDS[kind]}
        about["exampleOfWork"] = add(crate, parameter, "FormalParameter", told)
    return add(crate, f"#value-{mark}", "PropertyValue", about)


def _parameter(verb: str, kind: str, name: str) -> str:
    return quote(f"#parameter-{verb}-{kind}-{name}".replace(" ", "-"), safe="#")


def _unique(refs: list[Ref]) -> list[Ref]:
    return [ref(name) for name in dict.fromkeys(one["@id"] for one in refs)]


# --- tools -------------------------------------------------------------------------------------


def _tool(told: Told, attempt: Attempt) -> Ref:
    """The verb at the state of its code; an attempt that left no manifest did not say which."""
    made = attempt.made
    name = _tool_name(told.study, attempt)
    if told.crate.dereference(name) is not None:
        return ref(name)
    source = f"{COPIED}/{_source(attempt.verb)}"
    about: dict[str, Any] = {"name": attempt.verb, "url": ref(source) if source in told.copied else told.about.address}
    if made is None:
        unknown = {
            "softwareVersion": "not recorded",
            "description": "Which code an attempt ran stands in its manifest.",
        }
        return add(told.crate, name, "SoftwareApplication", about | unknown)
    commit = made.git.commit or f"none ({made.git.why})"
    version = f"code digest {made.code.digest}, git commit {commit}{', tree not clean' if made.git.dirty else ''}"
    known = {"softwareVersion": without_places(version), "description": _whether_copied(told.study.project, made)}
    return add(told.crate, name, "SoftwareApplication", about | known | _parameters(told, made))


def _tool_name(study: Study, attempt: Attempt) -> str:
    """An absolute address, as the profile recommends: the SWHID of the commit, or of the file that the crate keeps.

    It follows from the content alone; it leads somewhere once the repository is archived at Software Heritage.
    """
    made, source = attempt.made, _source(attempt.verb)
    state = f"code-{made.code.digest}{'-dirty' if made.git.dirty else ''}" if made else "not-recorded"
    if made is not None and made.git.commit:
        return f"{_SWHID}rev:{made.git.commit};path=/{source}#{state}"
    kept = study.copies.get(f"{COPIED}/{source}")
    if kept is None:
        return f"#tool-{attempt.verb.replace(' ', '-')}-{state}"
    content = kept.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return f"{_SWHID}cnt:{blob}#{state}"


def _source(verb: str) -> str:
    return f"{module_of(verb).replace('.', '/')}.py"


def _parameters(told: Told, made: Manifest) -> dict[str, list[Ref]]:
    """Formal parameters of the tool, as the attempts that ran the same code had them."""
    same = [
        one for one in told.study.manifests.values() if (one.verb, one.code.digest) == (made.verb, made.code.digest)
    ]
    named = [("seed", name) for one in same for name in one.seeds]
    named += [("decided by", name) for one in same for name in one.decided_by]
    variables = [("environment", name) for one in same for name in _variables(one)]

    def refs(pairs: list[tuple[str, str]]) -> list[Ref]:
        return [ref(_parameter(made.verb, kind, name)) for kind, name in sorted(set(pairs))]

    return {"input": refs(named), "environment": refs(variables)}


def _whether_copied(project: Path, made: Manifest) -> str:
    """Whether the code that the crate keeps means the same as the code that ran."""
    try:
        same = code_digest(made.verb, made.code.uses, project) == made.code.digest
    except UserError:
        same = False
    return f"The code in crate/chord {'has' if same else 'does not have'} the digest of the code that ran."


# --- crate ---------------------------------------------------------------------------------------

# A study as a Provenance Run Crate 0.5: RO-Crate 1.1, the workflow, one action per attempt, a hash for every file.
#
# All that the profile requires and recommends is met, but for two checks. "SoftwareApplication id" wants absolute
# addresses, also of the workflow, which another check wants to be a file of the crate: crate/Snakefile. "Action
# endTime" fails for an attempt that was killed outright and never repeated: nobody wrote down when it ended.
# The same study gives the same bytes: `datePublished` is the time at which its last attempt ended or began.

_LANGUAGE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
_BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"


def metadata_of(study: Study, verify: bool) -> str:
    """The text of ro-crate-metadata.json for a study. With `verify` files inside folders are hashed too."""
    crate = empty_crate(max(attempt.ended or attempt.started for attempt in study.attempts))
    about = add_about(crate, study.project, COPIED)
    copied = add_copies(crate, study)
    add_study(crate, study, verify)
    told = Told(crate, study, about, steps_of(study.project), copied)
    actions = add_actions(told)
    engine = _engine(crate, study)
    _workflow(told, actions, engine)
    run = _run(told, actions, engine)
    crate.root_dataset["name"] = f"{about.title}: study {study.folder.absolute().name}"
    crate.root_dataset["description"] = (
        f"All files of study {study.folder.absolute().name}, and how each was made: {len(study.attempts)} attempts, "
        f"{sum(attempt.problem is not None for attempt in study.attempts)} of them without a result. "
        f"{COPIED}/ holds workflow, configuration, code and pins as they were when the crate was written."
    )
    add_readme(crate, study)
    crate.root_dataset["mentions"] = [run, *actions.created, *actions.controls, ref("#organize")]
    return as_text(crate)


def _engine(crate: ROCrate, study: Study) -> Ref:
    """Snakemake, in the version that the newest manifest saw installed."""
    versions = {one.ended: one.installed.packages.get("snakemake") for one in study.manifests.values()}
    version = versions[max(versions)] or "not recorded"
    address = "https://snakemake.readthedocs.io/"
    about = {"name": "Snakemake", "url": address, "identifier": address, "version": version}
    add(crate, _LANGUAGE, "ComputerLanguage", about)
    return add(crate, address, "SoftwareApplication", {"name": "Snakemake", "url": address, "version": version})


def _workflow(told: Told, actions: Actions, engine: Ref) -> None:
    """Adds the Snakefile as main entity, its rules as steps, and the environment files that they name."""
    crate, study = told.crate, told.study
    for step in actions.used.values():
        about = {
            "name": step.name,
            "description": step.message,
            "position": str(step.position),
            "workExample": actions.tools[step.name],
            "buildInstructions": _pins(told, step),
        }
        add(crate, step_ref(step)["@id"], "HowToStep", about)
    tools = [name for names in actions.tools.values() for name in names]
    source = study.copies[SNAKEFILE]
    add(crate, _BIOSCHEMAS, "CreativeWork", {"name": "Bioschemas ComputationalWorkflow", "version": "1.0-RELEASE"})
    about: dict[str, Any] = {
        "name": told.about.title,
        "version": told.about.version or _commit(study),
        "url": told.about.address,
        "license": crate.root_dataset.properties()["license"],
        "conformsTo": ref(_BIOSCHEMAS),
        "programmingLanguage": ref(_LANGUAGE),
        "runtimePlatform": engine,
        "encodingFormat": encoding(SNAKEFILE),
        "contentSize": str(source.stat().st_size),
        "sha256": told.copied[SNAKEFILE],
        "step": [step_ref(step) for step in sorted(actions.used.values(), key=lambda step: step.position)],
        "hasPart": list({name["@id"]: name for name in tools}.values()),
        "input": _formal(
            crate, "configuration", [path for path in told.copied if path.startswith(f"{COPIED}/config/")]
        ),
        "output": _formal(crate, "artefact", _artefacts(study)),
        "buildInstructions": [ref(path) for path in told.copied if environment_rules(path)],
    }
    kinds = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
    crate.root_dataset["mainEntity"] = add_file(crate, SNAKEFILE, about, kinds)


def _pins(told: Told, step: Step) -> list[Ref]:
    """The environment file that a rule names, and the exact pins beside it."""
    named = Path(step.environment) if step.environment else None
    paths = [f"{COPIED}/{path}" for path in (named, named.with_suffix(".txt"))] if named else []
    return [ref(path) for path in paths if path in told.copied]


def _formal(crate: ROCrate, name: str, paths: list[str]) -> Ref | None:
    """A formal parameter of the workflow whose values are files of the crate."""
    for path in paths:
        say(crate, path, "exampleOfWork", ref(f"#parameter-{name}"))
    about = {"name": name, "additionalType": "File"}
    return add(crate, f"#parameter-{name}", "FormalParameter", about) if paths else None


def _artefacts(study: Study) -> list[str]:
    """Tables, figures and pages: what jobs put at the top of the study."""
    made = {content.path for one in study.manifests.values() for content in one.outputs.values()}
    return [
        path for path, content in study.stands.items() if path in made and "/" not in path and content.kind == "file"
    ]


def _commit(study: Study) -> str:
    newest = max(study.manifests.values(), key=lambda one: one.ended)
    return newest.git.commit or "not recorded"


def _run(told: Told, actions: Actions, engine: Ref) -> Ref:
    """Adds the run of the whole workflow, however many times Snakemake was called for it, and who organised it."""
    attempts = told.study.attempts
    last = {attempt.manifest: attempt for attempt in attempts}
    open_ends = sorted(path for path, attempt in last.items() if attempt.problem)
    name = told.study.folder.absolute().name
    results = [ref(path) for path in _artefacts(told.study)] or [ref(LEDGER)]
    about = {
        "name": f"Study {name}",
        "description": f"All jobs that made study {name}, of all calls of Snakemake.",
        "instrument": ref(SNAKEFILE),
        "agent": told.about.agent,
        "startTime": attempts[0].started,
        "endTime": max(attempt.ended or attempt.started for attempt in attempts),
        "actionStatus": FAILED if open_ends else COMPLETED,
        "error": f"last attempt without a result at: {', '.join(open_ends)}" if open_ends else None,
        "object": [ref(path) for path in told.copied if path.startswith(f"{COPIED}/config/")],
        "result": results,
    }
    run = add(told.crate, "#run", "CreateAction", about)
    organised = {"name": f"Snakemake's run of study {name}", "instrument": engine, "agent": told.about.agent}
    times = {key: about[key] for key in ("startTime", "endTime", "actionStatus", "error")}
    add(told.crate, "#organize", "OrganizeAction", {**organised, **times, "object": actions.controls, "result": run})
    return run


# --- export --------------------------------------------------------------------------------------

# A study as a Provenance Run Crate 0.5: in place, or as a folder of its own that can be given away.
#
#     chord export results/demo                 results/demo becomes a crate: metadata, and crate/ beside
#     chord export results/demo --out FOLDER    a copy of its files that is one; --link for hard links
#
# In place, `ro-crate-metadata.json`, `README.md` and `crate/` (workflow, configuration, code, pins) are added, and
# nothing else is touched. The metadata names no machine and no absolute path; the study's own logs and manifests may.

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

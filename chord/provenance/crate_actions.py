"""Every attempt of a study as an action of the crate: which tool made what of what, when, with which settings.

An attempt without a manifest has no recorded inputs, and no result but its lines in the ledger.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pydantic import JsonValue
from rocrate.rocrate import ROCrate

from chord.provenance.crate_about import About
from chord.provenance.crate_files import content_ref
from chord.provenance.crate_graph import Ref, add, ref, without_places
from chord.provenance.crate_steps import Step, step_for
from chord.provenance.crate_study import COPIED, Attempt, Study
from chord.provenance.digest import code_digest
from chord.provenance.files import UserError
from chord.provenance.manifest import Manifest
from chord.verbs import module_of

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

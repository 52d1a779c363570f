"""A study as a Provenance Run Crate 0.5: RO-Crate 1.1, the workflow, one action per attempt, a hash for every file.

All that the profile requires and recommends is met, but for two checks. "SoftwareApplication id" wants absolute
addresses, also of the workflow, which another check wants to be a file of the crate: crate/Snakefile. "Action endTime"
fails for an attempt that was killed outright and never repeated: nobody wrote down when it ended.
The same study gives the same bytes: `datePublished` is the time at which its last attempt ended or began.
"""

from pathlib import Path
from typing import Any

from rocrate.rocrate import ROCrate

from chord.provenance.crate_about import add_about
from chord.provenance.crate_actions import COMPLETED, FAILED, LEDGER, Actions, Told, add_actions, step_ref
from chord.provenance.crate_files import SNAKEFILE, add_copies, add_readme, add_study, encoding, environment_rules
from chord.provenance.crate_graph import Ref, add, add_file, as_text, empty_crate, ref, say
from chord.provenance.crate_steps import Step, steps_of
from chord.provenance.crate_study import COPIED, Study

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
        "input": _parameter(
            crate, "configuration", [path for path in told.copied if path.startswith(f"{COPIED}/config/")]
        ),
        "output": _parameter(crate, "artefact", _artefacts(study)),
        "buildInstructions": [ref(path) for path in told.copied if environment_rules(path)],
    }
    kinds = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
    crate.root_dataset["mainEntity"] = add_file(crate, SNAKEFILE, about, kinds)


def _pins(told: Told, step: Step) -> list[Ref]:
    """The environment file that a rule names, and the exact pins beside it."""
    named = Path(step.environment) if step.environment else None
    paths = [f"{COPIED}/{path}" for path in (named, named.with_suffix(".txt"))] if named else []
    return [ref(path) for path in paths if path in told.copied]


def _parameter(crate: ROCrate, name: str, paths: list[str]) -> Ref | None:
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

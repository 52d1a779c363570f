"""What the verbs `chord tabulate`, `plot` and `judge` have in common: options, and outputs written with a manifest."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chord.config.paper import Shown
from chord.errors import UserError, expected
from chord.evaluation.benchmarks import read_benchmark
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.manifest import JobSpec, Manifest

if TYPE_CHECKING:
    from chord.config.project import Project
    from chord.config.study import Study


def parser_of(verb: str, about: str | None, *formats: str) -> argparse.ArgumentParser:
    """A parser with the options of every verb here, and one for the file of each format that it writes."""
    parser = argparse.ArgumentParser(prog=f"chord {verb}", description=about)
    parser.add_argument("--study")
    parser.add_argument("--results", type=Path, help="the study's folder: the one that holds runs/")
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    for name in formats:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--manifest", type=Path, help=f"default: beside --{formats[0]}, ending in .manifest.json")
    return parser


def refuse_lacking(given: argparse.Namespace, *names: str) -> None:
    """Raises UserError unless all these options are given."""
    if lacking := [name for name in names if getattr(given, name) is None]:
        instead = ", or --show FILE alone" if "show" in given else ""
        raise UserError(f"command line: found no --{', --'.join(lacking)}, expected all of them{instead}")


def chosen(project: "Project", name: str, kind: Any, what: str) -> Any:
    """The artefact that --artefact names, which is of this kind. Raises UserError for one that is not built."""
    known: dict[str, Shown] = {key: one for key, one in project.artefacts.items() if isinstance(one, kind)}
    if name not in known:
        raise UserError(f"--artefact: '{name}' is no {what}, {expected(name, known)}")
    if reason := project.why_not(name):
        raise UserError(f"{name} is not built in study {project.study.name}: {reason}")
    return known[name]


def versions(root: Path, study: "Study") -> dict[str, str]:
    """The version of each benchmark as it is defined today; scores of others are refused."""
    return {name: str(read_benchmark(root, study, name).version) for name in study.benchmarks}


def as_json(data: Mapping[str, Any]) -> str:
    """The content of a JSON file; equal data give equal bytes."""
    return json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n"


def write(
    given: argparse.Namespace,
    project: "Project",
    job: JobSpec,
    inputs: Mapping[str, Path],
    contents: Mapping[str, str | bytes],
    **extra: Any,
) -> None:
    """Write each content to the file that the option of its format names, and a manifest beside the first."""
    outputs = {getattr(given, name): content for name, content in contents.items()}
    with Manifest.recording(
        given.manifest or next(iter(outputs)).with_suffix(".manifest.json"),
        job,
        inputs=inputs,
        outputs={path.name: path for path in outputs},
        extra={"study": project.study.name, **extra, "training_seeds": list(project.seeds)},
    ):
        for path, content in outputs.items():
            write_atomically(path, content)

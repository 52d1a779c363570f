"""The paper's claims and a verdict on each, out of scores and metrics, by the rules of config/claims.yaml.

`chord judge --show FILE` says again what such a file holds: how many claims hold, fail, are undecided, were
not run; and each of those that were run. `chord judge --digest` prints what belongs into config/claims.yaml.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from chord.config.project import judged_files, load
from chord.errors import UserError
from chord.evaluation.benchmarks import read_benchmark
from chord.findings import claims, rendering
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.steps import of_claims


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or show the verdicts of the study named on the command line."""
    given = _parser().parse_args(arguments)
    if given.digest:
        return print(load(given.root).claims.rules_digest)
    if given.show:
        return rendering.show_verdicts(rendering.read_claims(given.show))
    lacking = [name for name in ("study", "results", "json", "markdown", "html") if not getattr(given, name)]
    if lacking:
        raise UserError(f"command line: found no --{', --'.join(lacking)}, expected all of them, or --show FILE alone")
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    study = project.study
    versions = {key: str(read_benchmark(given.root, study, key).version) for key in study.benchmarks}
    data = claims.as_data(project, given.results, versions)
    outputs = {
        given.json: json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n",
        given.markdown: rendering.verdicts_markdown(data, study.title),
        given.html: rendering.verdicts_page(data, study.title),
    }
    with Manifest.recording(
        given.manifest or given.json.with_suffix(".manifest.json"),
        of_claims(project, given.root),
        inputs={name: given.results / name for name in judged_files(project)},
        outputs={path.name: path for path in outputs},
        extra={"study": study.name, "training_seeds": list(project.seeds)},
    ):
        for path, text in outputs.items():
            write_atomically(path, text)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord judge", description=__doc__)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a claims.json neatly, and write nothing")
    parser.add_argument("--digest", action="store_true", help="print the hash of the rules in config/claims.yaml")
    parser.add_argument("--study")
    parser.add_argument("--results", type=Path, help="the study's folder: the one that holds runs/")
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    for name in ("json", "markdown", "html"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --json, ending in .manifest.json")
    return parser

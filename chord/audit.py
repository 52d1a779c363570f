"""Where a number comes from, checked: every link is hashed again, offline, without a GPU, believing no cache.

python -m chord.audit                                          all of the study in config/config.yaml
python -m chord.audit results/demo/table1.json --cell chord-phi/in-distribution        one number
python -m chord.audit FILE_OR_FOLDER                           whatever a manifest of a study describes

Each link is verified, or altered (its bytes are not what its maker recorded, or its numbers do not follow from its
inputs), missing, stale (made by other code, settings, pins or inputs than are there now), or untracked (no manifest
made it). A dirty tree (made with uncommitted changes) and unpinned packages (others than envs/ pins) are remarks: what
ran is recorded, but not under a name that others have; --strict makes them break the chain. Exit code 0: the chain
holds, 1: a link is broken, 2: the question cannot be asked.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from chord import jobs
from chord.config import Project, load
from chord.findings import chain, recomputed, rendering
from chord.findings.reading import read_json
from chord.provenance.attempts import read_attempts
from chord.provenance.digest import PROJECT
from chord.provenance.files import UserError, run_verb
from chord.provenance.freshness import changes, differences
from chord.provenance.lineage import Job, Lineage, read_lineage, study_of
from chord.provenance.proof import Proof, gathered, proved
from chord.provenance.rehash import Hasher, total_bytes
from chord.provenance.verdicts import LEDGER, Evidence, Finding, Status

BROKEN = 1


@dataclass(frozen=True)
class Question:
    """What is asked about: `targets`, and all `files` behind them, what came first first."""

    lineage: Lineage
    project: Project | None
    targets: tuple[Path, ...]
    files: tuple[Path, ...]
    whole: bool = False
    cell: tuple[str, str] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits what the command line names; gives the exit code."""
    given = _parser().parse_args(arguments)
    began = time.monotonic()
    question = asked(given.target, given.cell, given.root)
    hasher = Hasher(question.lineage.study, given.quick)
    proof = answered(question, hasher)
    if given.quick:
        hasher.keep()
    broken = any(finding.status.is_bad or given.strict for finding in proof.findings)
    broken = broken or (given.strict and question.project is None)
    if given.json:
        about = {
            "study": question.lineage.shown(question.lineage.study),
            "targets": [question.lineage.shown(target) for target in question.targets],
            "holds": not broken,
            "bytes_hashed": hasher.bytes_read,
            "seconds": round(time.monotonic() - began, 3),
            "cell": _cell_data(question),
        }
        print(json.dumps(about | chain.as_data(proof), indent=1, ensure_ascii=False))
    else:
        for line in _report(question, proof, given.strict):
            print(line)
        print(f"{hasher.bytes_read:,} bytes hashed in {time.monotonic() - began:.1f} s")
    return BROKEN if broken else 0


# --- the question ------------------------------------------------------------------------------


def asked(target: Path | None, cell: str | None, root: Path) -> Question:
    """What the command line asks. Raises UserError for what no manifest describes."""
    place = Path(os.path.abspath(target or root / "results" / load(root).study.name))
    study = study_of(place)
    if not os.path.lexists(study):
        expected = "expected the results of a study"
        raise UserError(f"{study}: found no such folder, {expected}; build them: snakemake --cores 2")
    lineage = read_lineage(study)
    project = _project(study)
    if cell:
        return _cell_question(lineage, project, place, cell)
    whole = place == study
    targets = [*lineage.makers, *_expected(lineage, project)] if whole else _described_by(lineage, place)
    return Question(lineage, project, tuple(targets), tuple(lineage.behind(targets)), whole)


def _project(study: Path) -> Project | None:
    """All of config/ beside the results; None where only the results were copied."""
    root = study.parent.parent
    is_there = (root / "config" / "studies" / f"{study.name}.yaml").is_file()
    return load(root, study.name) if is_there else None


def _expected(lineage: Lineage, project: Project | None) -> Iterator[Path]:
    """What the study should have at the end of its chains, there or not."""
    for name in project.choice.artefacts if project else ():
        yield lineage.study / f"{name}.json"
    if project:
        yield lineage.study / "overview.html"


def _described_by(lineage: Lineage, place: Path) -> list[Path]:
    """The files to ask about for a file, a manifest, or a folder with manifests in it."""
    shown = lineage.shown(place)
    if place in lineage.makers:
        return [place, *(path for path in lineage.makers[place].outputs if path != place)]
    if place in lineage.jobs:
        return list(lineage.jobs[place].outputs)
    if place in lineage.readings:
        return [place]
    within = [path for path in lineage.makers if path.is_relative_to(place)]
    if not within and os.path.lexists(place):
        raise UserError(f"{shown}: found nothing that a manifest describes, expected a result: a table, a model, a run")
    if not within:
        raise UserError(f"{shown}: found nothing there, expected a result; build it: snakemake --cores 2")
    return within


def _cell_question(lineage: Lineage, project: Project | None, place: Path, cell: str) -> Question:
    """The question about one number of a table: only the scores of that cell are in the way."""
    maker = lineage.makers.get(place)
    if maker is None or maker.manifest.verb != "chord.tabulate":
        expected = "expected a table, such as results/demo/table1.json"
        raise UserError(f"{lineage.shown(place)}: found no manifest of a table that made it, {expected}")
    cells: dict[str, list[Path]] = {}
    for path in maker.inputs:
        if (parts := path.parts)[-1] == "scores.json":
            cells.setdefault(f"{parts[-5]}/{parts[-2]}", []).append(path)
    if cell not in cells:
        raise UserError(f"--cell: found '{cell}', expected an arm and a benchmark: {', '.join(cells)}")
    targets = (place, *(path for path in maker.outputs if path != place))
    arm, _, benchmark = cell.partition("/")
    return Question(lineage, project, targets, (*lineage.behind(cells[cell]), *targets), cell=(arm, benchmark))


# --- the answer --------------------------------------------------------------------------------


def answered(question: Question, hasher: Hasher) -> Proof:
    """Every link behind the targets, hashed once and judged."""
    lineage = question.lineage
    attempts = read_attempts(lineage.study / LEDGER)
    total = total_bytes([*question.files, *lineage.jobs])
    with tqdm(total=total, unit="B", unit_scale=True, desc="hashing", disable=None, leave=False) as bar:
        hasher.read = bar.update
        described = _recipes(question)
        evidence = gathered(lineage, attempts, question.files, hasher, _changes(question), described)
    return proved(evidence, question.files, lambda path: _recomputed(evidence, question, path), question.whole)


def _changes(question: Question) -> dict[Path, list[str]]:
    """For each manifest that config/ knows a job for: what of code, settings and pins is not as it was."""
    lineage, project = question.lineage, question.project
    if project is None:
        return {}
    expected = jobs.expectations(project, lineage.project)
    code = lineage.project if (lineage.project / "chord").is_dir() else PROJECT
    found: dict[Path, list[str]] = {}
    for path, job in lineage.jobs.items():
        if (today := expected.get(lineage.place(path))) is not None:
            found[path] = [str(one) for one in changes(job.manifest.model_dump(mode="json"), today, code)]
    return found


def _recipes(question: Question) -> dict[Path, list[str]]:
    """For each run.json in the way: what config/ says otherwise now."""
    lineage, project = question.lineage, question.project
    texts = jobs.run_texts(project) if project else {}
    found: dict[Path, list[str]] = {}
    for path in question.files:
        text = texts.get(lineage.place(path)) if path.is_relative_to(lineage.study) else None
        if text and path.is_file():
            with suppress(UserError):  # a recipe that cannot be read is not the one that training read: altered
                told = read_json(path, "the recipe of a run", "build it with snakemake")
                found[path] = [str(one) for one in differences("settings", told, json.loads(text))]
    return found


def _recomputed(evidence: Evidence, question: Question, path: Path) -> Iterator[Finding]:
    """What the numbers in a file say beside what its inputs give, where these are what the file was made from."""
    maker, study, project = evidence.lineage.makers.get(path), question.lineage.study, question.project
    if maker is None or path.suffix != ".json" or not _reads_what_is_there(evidence, maker):
        return
    checks: dict[str, Callable[[], Any]] = {
        "chord.score": lambda: recomputed.score_differences(path),
        "chord.tabulate": lambda: recomputed.table_differences(path, study, project, question.cell),
        "chord.plot": lambda: recomputed.figure_differences(path, study, project) if project else None,
    }
    check = checks.get(maker.manifest.verb)
    if check and (reason := recomputed.complaint(check)):
        shown = evidence.lineage.shown(path)
        yield Finding(Status.ALTERED, shown, reason, f"snakemake --cores 2 --force {shown}")
    if check and maker.manifest.verb == "chord.plot" and project is None:
        shown = evidence.lineage.shown(path)
        yield Finding(
            Status.NOT_JUDGED, shown, "not drawn again: there is no config/ beside results/", "copy config/ too"
        )


def _reads_what_is_there(evidence: Evidence, maker: Job) -> bool:
    """Whether the inputs that were hashed are those that the job read; else others are to blame, and named."""
    now = ((evidence.now.get(path), content) for path, content in maker.inputs.items())
    return all(one is None or one.sha256 == content.sha256 for one, content in now)


# --- the report --------------------------------------------------------------------------------


def _report(question: Question, proof: Proof, strict: bool) -> Iterator[str]:
    """What a person reads: the chain or the counts, what is wrong, the verdict."""
    lineage = question.lineage
    if question.whole:
        yield f"{lineage.shown(lineage.study)}, every link of it:"
        yield from chain.counts(proof)
    else:
        yield from _number(question)
        yield from chain.tree(proof, question.targets[:1])
    yield ""
    yield chain.ledger_line(proof)
    if question.project is None:
        yield "not judged: whether anything is stale; there is no config/ of this study beside results/"
    yield from chain.problems(proof.findings)
    yield chain.verdict(proof, strict)


def _number(question: Question) -> Iterator[str]:
    """The cell that was asked about, as it stands in the table and as its scores give it."""
    data = _cell_data(question)
    if not data or not question.cell:
        return
    yield f"{' / '.join(question.cell)} in {question.lineage.shown(question.targets[0])}"
    for name, key in (("stands there", "table"), ("its scores give", "recomputed")):
        cell = data[key]
        if isinstance(cell, dict):
            count = f"n = {rendering.count(cell)} (seeds × problems × samples)"
            yield f"  {name + ':':<17}{rendering.value(cell)} percent, {count}"
        else:
            yield f"  {name + ':':<17}{cell}"
    yield ""


def _cell_data(question: Question) -> dict[str, Any] | None:
    """The cell in the table and out of its scores; a text where one of them cannot be read."""
    if question.cell is None:
        return None
    arm, benchmark = question.cell
    path, study = question.targets[0], question.lineage.study
    found: dict[str, Any] = {"arm": arm, "benchmark": benchmark}
    try:
        data = read_json(path, "a table that chord.tabulate wrote", "tabulate again")
        found["table"] = next(row["cells"][benchmark] for row in data["rows"] if row["arm"] == arm)
        found["recomputed"] = recomputed.cell_again(study, arm, benchmark, data["seeds"])
    except (UserError, KeyError, TypeError, ValueError, StopIteration) as error:
        found = {"table": "cannot be read", "recomputed": str(error)} | found
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chord audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "target", type=Path, nargs="?", help="a file or folder below results/STUDY (default: the study)"
    )
    parser.add_argument("--cell", metavar="ARM/BENCHMARK", help="one number of the table TARGET")
    parser.add_argument("--json", action="store_true", help="everything that was found, as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="files of the same size, times and inode keep the hash of the last --quick"
    )
    parser.add_argument("--strict", action="store_true", help="remarks break the chain too: dirty tree, unpinned")
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder that holds config/ (default: here)")
    return parser


if __name__ == "__main__":
    run_verb("chord.audit", main)

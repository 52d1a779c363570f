"""Where a number comes from, checked: every link is hashed again, offline, without a GPU, believing no cache.

chord audit                                          all of the study in config/config.yaml
chord audit results/demo/table1.json --cell chord-phi/in-distribution        one number
chord audit FILE_OR_FOLDER                           whatever a manifest of a study describes

Each link is verified, or altered (its bytes are not what its maker recorded, or its numbers do not follow from its
inputs), missing, stale (made by another command, other code, settings, pins or inputs than are there now), or
untracked (no manifest made it). A dirty tree (made with uncommitted changes) and unpinned packages (others than envs/
pins) are remarks: what ran is recorded, but not under a name that others have. It is a remark too where the commands
of the rules could not be compared; and, where the whole study is asked about, files among its results that no job made
and lines of its ledger that tell of no attempt: no number stands on them. --strict makes remarks break the chain. Exit
code 0: the chain holds, 1: a link is broken, 2: the question cannot be asked.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from chord.audit import chain, inquiry
from chord.audit.inquiry import Question, answered, asked
from chord.audit.lineage import Proof
from chord.cluster import snakemake
from chord.errors import UserError
from chord.findings import rendering
from chord.findings.reading import read_json
from chord.provenance.freshness import Hasher, total_bytes

BROKEN = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits what the command line names; gives the exit code."""
    given = _parser().parse_args(arguments)
    began = time.monotonic()
    question = _with_rules(asked(given.target, given.cell, given.root))
    hasher = Hasher(question.lineage.study, given.quick)
    total = total_bytes([*question.files, *question.lineage.jobs])
    with tqdm(total=total, unit="B", unit_scale=True, desc="hashing", disable=None, leave=False) as bar:
        hasher.read = bar.update
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
        print(json.dumps(about | chain.as_data(proof), indent=1))
    else:
        for line in _report(question, proof, given.strict):
            print(line)
        print(f"{hasher.bytes_read:,} bytes hashed in {time.monotonic() - began:.1f} s")
    return BROKEN if broken else 0


def _with_rules(question: Question) -> Question:
    """The question with what the rules of the project tell each job, or with why they cannot say."""
    if question.project is None:
        return question
    root, config = question.lineage.project, [f"study={question.lineage.study.name}"]
    try:
        return replace(question, told=snakemake.asked(root, config))
    except UserError as error:
        return replace(question, untold=str(error))


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
            yield f"  {name + ':':<17}{rendering.value(cell)} {data['unit']}, {count}"
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
        data = read_json(path, "a table that chord tabulate wrote", "tabulate again")
        found["table"] = next(row["cells"][benchmark] for row in data["rows"] if row["arm"] == arm)
        found["unit"] = data["unit"]
        found["recomputed"] = inquiry.cell_again(study, arm, benchmark, data)
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
    parser.add_argument(
        "--strict", action="store_true", help="remarks break the chain too: dirty tree, unpinned, of no job"
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder that holds config/ (default: here)")
    return parser

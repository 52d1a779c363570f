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
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from chord.audit.inquiry import Link, Proof, Question, answered, asked, cell_again, versions
from chord.cluster import snakemake
from chord.errors import UserError
from chord.findings import reading, rendering
from chord.findings.reading import read_json
from chord.provenance.changes import Told
from chord.provenance.check import Finding, Status
from chord.provenance.files import size_bytes
from chord.provenance.ledger import Attempts
from chord.provenance.lineage import Hasher, Job, Lineage

BROKEN = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits what the command line names; gives the exit code."""
    given = _parser().parse_args(arguments)
    began = time.monotonic()
    question = asked(given.target, given.cell, given.root)
    hasher = Hasher(question.lineage.study, given.quick)
    total = sum(map(size_bytes, [*question.files, *question.lineage.jobs]))
    with tqdm(total=total, unit="B", unit_scale=True, desc="hashing", disable=None, leave=False) as bar:
        hasher.read = bar.update
        with ThreadPoolExecutor(1) as pool:  # Snakemake reads the rules in a process of its own
            proof = answered(question, hasher, pool.submit(_told, question).result)
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
        print(json.dumps(about | as_data(proof), indent=1))
    else:
        for line in _report(question, proof, given.strict):
            print(line)
        print(f"{hasher.bytes_read:,} bytes hashed in {time.monotonic() - began:.1f} s")
    return BROKEN if broken else 0


def _told(question: Question) -> dict[str, Told] | UserError | None:
    """What the rules of the project say to each job, or why they cannot say."""
    if question.project is None:
        return None
    try:
        return snakemake.asked(question.lineage.project, [f"study={question.lineage.study.name}"])
    except UserError as error:
        return error


def _report(question: Question, proof: Proof, strict: bool) -> Iterator[str]:
    """What a person reads: the chain or the counts, what is wrong, the verdict."""
    lineage = question.lineage
    if question.whole:
        yield f"{lineage.shown(lineage.study)}, every link of it:"
        yield from counts(proof)
    else:
        yield from _number(question)
        yield from tree(proof, question.targets[:1])
    yield ""
    yield ledger_line(proof)
    if question.project is None:
        yield "not judged: whether anything is stale; there is no config/ of this study beside results/"
    yield from problems(proof.findings)
    yield verdict(proof, strict)


def _number(question: Question) -> Iterator[str]:
    """The cell that was asked about, as it stands in the table and as its scores give it."""
    data = _cell_data(question)
    if not data or not question.cell:
        return
    yield f"{' / '.join(question.cell)} in {question.lineage.shown(question.targets[0])}"
    for name, key in (("stands there", "table"), ("its scores give", "recomputed")):
        cell: dict[str, Any] | str = data[key]
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
        found["recomputed"] = cell_again(study, arm, benchmark, data)
    except (UserError, KeyError, TypeError, ValueError, StopIteration) as error:
        found = {"table": "cannot be read", "recomputed": str(error)} | found
    return found


# --- the chain as text ----------------------------------------------------------------------------

HASH = 12
MARGIN = 24
SHOWN_PROBLEMS = 20
LONGEST = 400


def tree(proof: Proof, targets: Sequence[Path]) -> Iterator[str]:
    """Each target, below it how it was made, below that what it was made from; what was shown above is only named."""
    links = {link.path: link for link in proof.links}
    shown: set[Path] = set()
    told: set[Path] = set()
    waiting = [(target, 0) for target in reversed(targets)]
    while waiting:
        path, depth = waiting.pop()
        link, pad = links[path], "  " * depth
        name = proof.lineage.shown(path)
        if path in shown:
            yield f"{'above':<{MARGIN}}{pad}{name}"
            continue
        shown.add(path)
        yield f"{_mark(link):<10}{(link.now.sha256 or '')[:HASH]:<{MARGIN - 10}}{pad}{name}"
        if link.maker:
            lines = [f"{link.maker.manifest.verb}, as above"] if link.maker.path in told else made(link.maker)
            yield from (f"{'':<{MARGIN}}{pad}  | {line}" for line in lines)
            told.add(link.maker.path)
            waiting += [(one, depth + 1) for one in reversed(list(link.maker.inputs)) if one in links]


def made(job: Job) -> Iterator[str]:
    """How a job went, in two lines: verb, seeds, time and device; code, commit and packages."""
    manifest = job.manifest
    seeds = "".join(f", {name} seed {seed}" for name, seed in manifest.seeds.items())
    yield f"{manifest.verb}{seeds}, {manifest.started[:16].replace('T', ' ')} UTC, {reading.device(manifest)}"
    yield f"code {manifest.code.digest[:HASH]}, commit {reading.commit(manifest)}, {versions(manifest)}"


def counts(proof: Proof) -> Iterator[str]:
    """One line for each kind of link: its count and statuses."""
    names = dict.fromkeys(link.kind for link in proof.links)
    kinds = {kind: [link for link in proof.links if link.kind == kind] for kind in names}
    width = max((len(kind) for kind in kinds), default=0)
    for kind, links in kinds.items():
        found = Counter(link.status for link in links)
        said = ", ".join(f"{found[status]} {status}" for status in Status if found[status])
        yield f"{kind:<{width}}  {len(links):>5}  {said}"


def ledger_line(proof: Proof) -> str:
    """What the ledger holds, failed attempts too."""
    attempts = proof.check.attempts or Attempts()
    counted = sorted(attempts.outcomes.items(), key=lambda pair: -pair[1])
    ended = ", ".join(f"{count} {outcome}" for outcome, count in counted)
    return f"ledger: {attempts.lines} lines, {len(attempts.starts)} attempts ({ended or 'none'})"


def problems(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings with their remedies, those that break the chain first; equal findings are grouped."""
    groups: dict[tuple[Status, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: not finding.status.is_bad):
        groups.setdefault((finding.status, finding.found), []).append(finding)
    for (status, found), same in list(groups.items())[:SHOWN_PROBLEMS]:
        others = f" and {len(same) - 1} more" if len(same) > 1 else ""
        yield f"{status.upper() if status.is_bad else status}  {same[0].path}{others}"
        yield f"    {found if len(found) <= LONGEST else found[:LONGEST] + ' ... (--json has all of it)'}"
        yield f"    do: {same[0].remedy}"
    if len(groups) > SHOWN_PROBLEMS:
        yield f"and {len(groups) - SHOWN_PROBLEMS} more; --json has all"


def verdict(proof: Proof, strict: bool) -> str:
    """The last line: whether the chain holds."""
    bad = [finding for finding in proof.findings if finding.status.is_bad or strict]
    if not bad:
        remarks = f"; remarks: {len(proof.findings)}" if proof.findings else ""
        return f"All {len(proof.links)} links hold{remarks}."
    first = next((finding for finding in bad if finding.status.is_bad), bad[0])
    count = len({finding.path for finding in bad})
    places = "one place:" if count == 1 else f"{count} places, first"
    return f"The chain is broken in {places} {first.path} ({first.status})."


def as_data(proof: Proof) -> dict[str, object]:
    """All of it as JSON."""
    lineage, attempts = proof.lineage, proof.check.attempts or Attempts()
    return {
        "ledger": {"lines": attempts.lines, "attempts": len(attempts.starts), "outcomes": attempts.outcomes},
        "links": [
            {
                "path": lineage.shown(link.path),
                "kind": link.kind,
                "status": link.status.value,
                "sha256": link.now.sha256,
                "bytes": link.now.bytes,
                "made_by": _job(lineage, link.maker),
            }
            for link in proof.links
        ],
        "findings": [
            {"status": one.status.value, "path": one.path, "found": one.found, "do": one.remedy}
            for one in proof.findings
        ],
    }


def _job(lineage: Lineage, job: Job | None) -> dict[str, object] | None:
    if job is None:
        return None
    manifest = job.manifest
    return {
        "manifest": lineage.shown(job.path),
        "inputs": [lineage.shown(path) for path in job.inputs],
        "code": manifest.code.digest,
        **manifest.model_dump(
            mode="json", include={"verb", "started", "seconds", "seeds", "git", "machine", "attempt"}
        ),
        "device": reading.device(manifest),
        "python": manifest.installed.python,
        "packages": manifest.installed.packages,
        "pinned": manifest.installed.pinned,
    }


def _mark(link: Link) -> str:
    return link.status.upper() if link.status.is_bad else link.status.value


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

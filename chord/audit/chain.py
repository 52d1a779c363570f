"""A proof as text: the chain behind a number as a tree, counts over a study, and what is wrong. Judges nothing."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chord.audit.lineage import Finding, Job, Lineage, Link, Proof, Status, kind_of
from chord.findings import reading
from chord.provenance.manifest import Manifest

# --- chain ---------------------------------------------------------------------------------------

HASH = 12
MARGIN = 24
SHOWN_PROBLEMS = 20
LONGEST = 400
# The packages that decide what a verb writes.
PACKAGES = {
    "chord prepare": ("reasoning-gym", "datasets"),
    "chord demonstrate": ("math-verify",),
    "chord ask-expert": ("vllm", "math-verify"),
    "chord train": ("torch", "transformers"),
    "chord generate": ("torch", "transformers", "lm-eval"),
    "chord score": ("lm-eval", "math-verify"),
    "chord tabulate": ("numpy",),
    "chord plot": ("numpy", "matplotlib"),
}


def tree(proof: Proof, targets: Sequence[Path]) -> Iterator[str]:
    """Each target, below it how it was made, below that what it was made from; what was shown above is only named."""
    links = {link.path: link for link in proof.links}
    shown: set[Path] = set()
    told: set[Path] = set()
    waiting = [(target, 0) for target in reversed(targets)]
    while waiting:
        path, depth = waiting.pop()
        link, pad = links[path], "  " * depth
        name = proof.evidence.lineage.shown(path)
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
    yield f"code {manifest.code.digest[:HASH]}, commit {reading.commit(manifest)}, {_versions(manifest)}"


def _versions(manifest: Manifest) -> str:
    """Python, and the packages that decide what the verb writes."""
    packages = manifest.installed.packages
    named = [f"{name} {packages[name]}" for name in PACKAGES.get(manifest.verb, ()) if name in packages]
    return ", ".join([f"Python {manifest.installed.python}", *named])


def counts(proof: Proof) -> Iterator[str]:
    """One line for each kind of link: how many, and what is said of them."""
    names = dict.fromkeys(link.kind for link in proof.links)
    kinds = {kind: [link for link in proof.links if link.kind == kind] for kind in names}
    width = max((len(kind) for kind in kinds), default=0)
    for kind, links in kinds.items():
        found = Counter(link.status for link in links)
        said = ", ".join(f"{found[status]} {status}" for status in Status if found[status])
        yield f"{kind:<{width}}  {len(links):>5}  {said}"


def ledger_line(proof: Proof) -> str:
    """What the ledger holds, failed attempts too."""
    attempts = proof.evidence.attempts
    counted = sorted(attempts.outcomes.items(), key=lambda pair: -pair[1])
    ended = ", ".join(f"{count} {outcome}" for outcome, count in counted)
    return f"ledger: {attempts.lines} lines, {len(attempts.starts)} attempts ({ended or 'none'})"


def problems(findings: Sequence[Finding]) -> Iterator[str]:
    """What is wrong, what breaks the chain first, each with what to do; the same thing said of many links only once."""
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
    first = proof.first_bad or bad[0]
    places = "one place:" if len(bad) == 1 else f"{len(bad)} places, first"
    return f"The chain is broken in {places} {first.path} ({first.status})."


def as_data(proof: Proof) -> dict[str, object]:
    """All of it as JSON."""
    lineage: Lineage = proof.evidence.lineage
    attempts = proof.evidence.attempts
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


# --- links ---------------------------------------------------------------------------------------

# A proof as data for the page: every link behind its numbers, who made it, and what is said of it. Judges nothing.

NOT_HASHED = "not hashed here"
NOTE = "As of the making of this page: each file was read and hashed, and compared with what its maker recorded."
UNJUDGED = " Whether anything is stale was not judged: there was no config/ beside the results."


def links_data(proof: Proof, left_out: Mapping[Path, int], judged: bool) -> dict[str, Any]:
    """Nodes, jobs and findings by number and path; see findings/web/chain.js.

    `left_out`: files too large to be hashed for a page, with their sizes. `judged`: whether staleness was judged.
    """
    lineage = proof.evidence.lineage
    facts = {link.path: (link.kind, str(link.status), link.now.sha256, link.now.bytes) for link in proof.links}
    for path, size in left_out.items():
        maker = lineage.makers.get(path)
        facts[path] = (kind_of(path), NOT_HASHED, maker.outputs[path].sha256 if maker else None, size)
    number = {path: index for index, path in enumerate(facts)}
    makers = {path: lineage.makers[path] for path in facts if path in lineage.makers}
    jobs = {job.path: job for job in makers.values()}
    order = {path: index for index, path in enumerate(jobs)}
    nodes = [
        {"path": lineage.shown(path), "kind": kind, "status": status, "sha256": sha256, "bytes": size}
        | {"job": order[makers[path].path] if path in makers else None}
        for path, (kind, status, sha256, size) in facts.items()
    ]
    cells: dict[str, list[int]] = {}
    for path in facts:
        if path.name == "scores.json":
            cells.setdefault(f"{path.parts[-5]}/{path.parts[-2]}", []).append(number[path])
    findings: dict[str, list[list[str]]] = {}
    for one in proof.findings:
        findings.setdefault(one.path, []).append([one.status.value, one.found, one.remedy])
    return {
        "study": lineage.study.name,
        "note": NOTE + ("" if judged else UNJUDGED),
        "bad": [status.value for status in Status if status.is_bad],
        "nodes": nodes,
        "jobs": [_job_facts(lineage, job, number) for job in jobs.values()],
        "findings": findings,
        "cells": cells,
        "files": {path.name: number[path] for path in facts if path.parent == lineage.study},
    }


def _job_facts(lineage: Lineage, job: Job, number: Mapping[Path, int]) -> dict[str, Any]:
    manifest = job.manifest
    return {
        "verb": manifest.verb,
        "manifest": lineage.shown(job.path),
        "started": manifest.started,
        "took": reading.duration(manifest.seconds),
        "device": reading.device(manifest),
        "seeds": ", ".join(f"{name} {seed}" for name, seed in manifest.seeds.items()),
        "slurm": manifest.attempt.job,
        "code": manifest.code.digest,
        "commit": reading.commit(manifest),
        "packages": _versions(manifest),
        "command": shlex.join(manifest.command),
        "inputs": [number[path] for path in job.inputs if path in number],
    }

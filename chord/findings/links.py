"""A proof as data for the page: every link behind its numbers, who made it, and what is said of it. Judges nothing."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chord.findings import chain, history
from chord.provenance.lineage import Job, Lineage
from chord.provenance.proof import Proof
from chord.provenance.verdicts import Status, kind_of

NOT_HASHED = "not hashed here"
NOTE = "As of the making of this page: each file was read and hashed, and compared with what its maker recorded."
UNJUDGED = " Whether anything is stale was not judged: there was no config/ beside the results."


def as_data(proof: Proof, left_out: Mapping[Path, int], judged: bool) -> dict[str, Any]:
    """Nodes, jobs and findings by number and path; see `findings/web/chain.js`.

    `left_out`: files too large to be hashed for a page, with their sizes. `judged`: whether staleness was judged.
    """
    lineage = proof.evidence.lineage
    nodes = [_node(lineage, link.path, link.kind, link.status, link.now.sha256, link.now.bytes) for link in proof.links]
    nodes += [_large(lineage, path, size) for path, size in left_out.items()]
    places = [*(link.path for link in proof.links), *left_out]
    number = {path: index for index, path in enumerate(places)}
    makers = {path: job for path in places if (job := lineage.makers.get(path))}
    order = {job.path: index for index, job in enumerate(dict.fromkeys(makers.values()))}
    for path, node in zip(places, nodes, strict=True):
        node["job"] = order[makers[path].path] if path in makers else None
    cells: dict[str, list[int]] = {}
    for path in places:
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
        "jobs": [_job(lineage, job, number) for job in dict.fromkeys(makers.values())],
        "findings": findings,
        "cells": cells,
        "files": {path.name: number[path] for path in places if path.parent == lineage.study},
    }


def _large(lineage: Lineage, path: Path, size: int) -> dict[str, Any]:
    maker = lineage.makers.get(path)
    recorded = maker.outputs[path].sha256 if maker else None
    return _node(lineage, path, kind_of(path), NOT_HASHED, recorded, size)


def _node(lineage: Lineage, path: Path, kind: str, status: str, sha256: str | None, size: int) -> dict[str, Any]:
    return {"path": lineage.shown(path), "kind": kind, "status": str(status), "sha256": sha256, "bytes": size}


def _job(lineage: Lineage, job: Job, number: Mapping[Path, int]) -> dict[str, Any]:
    manifest = job.manifest
    packages = manifest.installed.packages
    names = [name for name in chain.PACKAGES.get(manifest.verb, ()) if name in packages]
    return {
        "verb": manifest.verb,
        "manifest": lineage.shown(job.path),
        "started": manifest.started,
        "took": history.duration(manifest.seconds),
        "device": history.device(manifest),
        "seeds": ", ".join(f"{name} {seed}" for name, seed in manifest.seeds.items()),
        "slurm": manifest.attempt.job,
        "code": manifest.code.digest,
        "commit": history.commit(manifest),
        "packages": ", ".join([f"Python {manifest.installed.python}", *(f"{name} {packages[name]}" for name in names)]),
        "command": shlex.join(manifest.command),
        "inputs": [number[path] for path in job.inputs if path in number],
    }

"""The page of a study, to send to a colleague: tables, claims, figures, what was run, what is ours, what is missing.

One file that needs nothing from outside and opens offline. Behind each number stand its chain, as `chord audit` would
answer it when the page is made, and the first answers of the models with their grades. Equal results give equal bytes.
"""

import argparse
import base64
import gzip
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.audit import inquiry
from chord.audit.inquiry import Proof, versions
from chord.config.paper import Tabled, benchmarks_of
from chord.config.project import Ours, Project, load, ours
from chord.config.study import Arithmetic, Arm, Recipe
from chord.errors import UserError
from chord.findings import forest, reading, rendering, table
from chord.findings.reading import Training, read_json
from chord.findings.rendering import NONE, ORDER
from chord.provenance.check import Status
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.lineage import Hasher, Job, Lineage
from chord.provenance.manifest import Manifest
from chord.settings import Raw
from chord.steps import files_with_ours, of_page

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Shown:
    """All that the page shows. `chain`: see `links_data`; `answers`: see `table.of_cell`; `drawings` are SVG."""

    project: Project
    artefacts: dict[str, dict[str, Any]]
    drawings: dict[str, str]
    claims: dict[str, Any] | None
    forest: str | None
    trainings: dict[str, list[Training]]
    jobs: list[Manifest]
    chain: dict[str, Any]
    answers: dict[str, Any]
    ours: list[Ours]
    not_run: list[str]


HASHED_BYTES = 1 << 30  # ours: larger files and models are not read for a page; `chord audit` reads them
REMEDY = "build it with snakemake"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the study named on the command line."""
    given = _parser().parse_args(arguments)
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    shown, makers = read(given.root, project, given.results)
    with Manifest.recording(
        given.manifest or given.html.with_suffix(".manifest.json"),
        of_page(project, given.root),
        inputs=_inputs(shown, makers, given.results),
        outputs={given.html.name: given.html},
        extra={"study": project.study.name, "training_seeds": list(project.seeds)},
    ):
        write_atomically(given.html, document(shown))


def read(root: Path, project: Project, results: Path) -> tuple[Shown, list[Job]]:
    """All that the page shows, and the jobs behind it that left a manifest."""
    artefacts = {name: _artefact(results / f"{name}.json") for name in project.choice.artefacts}
    drawings = {name: _drawing(results / f"{name}.svg") for name, data in artefacts.items() if "rows" not in data}
    claims = rendering.read_claims(results / "claims.json") if (results / "claims.json").exists() else None
    forest_plot = _drawing(results / "claims.svg") if claims else None
    trainings = _trainings(project, results)
    judged = inquiry.project_of(results.absolute()) is not None
    names = [f"{name}.json" for name in artefacts] + (["claims.json"] if claims else [])
    question, large = inquiry.about(results, project if judged else None, names, HASHED_BYTES)
    proof = inquiry.answered(question, Hasher(question.lineage.study))
    lineage = question.lineage
    makers = {job.path: job for path in (*question.files, *large) if (job := lineage.makers.get(path))}
    recorded = {path: job.outputs[path].sha256 for path, job in lineage.makers.items()}
    shown = Shown(
        project=project,
        artefacts=artefacts,
        drawings=drawings,
        claims=claims,
        forest=forest_plot,
        trainings=trainings,
        jobs=[job.manifest for job in makers.values()],
        chain=links_data(proof, large, judged),
        answers=_answers(artefacts, results, recorded),
        ours=ours(root / "config", files_with_ours(project)),
        not_run=list(not_run(root, project)),
    )
    return shown, list(makers.values())


def _artefact(path: Path) -> dict[str, Any]:
    """A table (rows and columns), a figure (panels), or a drawing without data."""
    what = "a table or figure that chord tabulate or chord plot wrote"
    data = read_json(path, what, REMEDY)
    needed = {"artefact", "title", "seeds", "paper", "columns" if "rows" in data else "panels"}
    if lacking := needed - data.keys():
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, expected {what}; {REMEDY}")
    return data


def _drawing(path: Path) -> str:
    try:
        svg = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError(f"{path}: found no drawing, expected the SVG of {path.stem}; {REMEDY}") from None
    if "<svg" not in svg or "</svg>" not in svg:
        found = f"{len(svg)} characters that are no whole SVG"
        raise UserError(f"{path}: found {found}, expected that of {path.stem}; {REMEDY}")
    return svg


def _trainings(project: Project, results: Path) -> dict[str, list[Training]]:
    """By arm, every training run that the chosen artefacts stand on; the study's own base model first."""
    found: dict[str, list[Training]] = {}
    if project.study.base_corpus:
        found["base model"] = [reading.read_training("base model", results / "models" / "base")]
    for name in used_arms(project):
        if project.arms[name].recipe:
            folders = [results / "runs" / name / f"seed-{seed}" for seed in project.seeds]
            found[project.arms[name].label] = [reading.read_training(name, folder) for folder in folders]
    return found


def _answers(artefacts: dict[str, Any], results: Path, recorded: dict[Path, str]) -> dict[str, Any]:
    """The first answers of every cell, and prompts and right answers of the problems that they answer."""
    cells: dict[str, Any] = {}
    wanted: dict[str, set[str]] = {}
    for data in artefacts.values():
        for row in data.get("rows", ()):
            for benchmark in row["cells"]:
                if found := table.of_cell(results, row["arm"], benchmark, data["seeds"], recorded):
                    cells[f"{row['arm']}/{benchmark}"] = found
                    wanted.setdefault(benchmark, set()).update(one[0] for seed in found for one in seed["problems"])
    prompts = {benchmark: table.problems(results, benchmark, ids) for benchmark, ids in wanted.items()}
    return {"cells": cells, "problems": prompts}


def _inputs(shown: Shown, makers: Sequence[Job], results: Path) -> dict[str, Path]:
    """The files that the page is made of and that exist, by their places in the study."""
    files = [results / f"{name}.json" for name in shown.artefacts]
    files += [results / f"{name}.svg" for name in shown.drawings]
    files += [results / name for name in ("claims.json", "claims.svg")] if shown.claims else []
    for runs in shown.trainings.values():
        files += [one.folder / name for one in runs for name in ("train.manifest.json", "timing.jsonl")]
    for cell, seeds in shown.answers["cells"].items():
        arm, _, benchmark = cell.partition("/")
        files += [path for one in seeds for path in table.place(results, arm, one["seed"], benchmark)]
    study = results.absolute()
    files += [results / job.path.relative_to(study) for job in makers if job.path.is_relative_to(study)]
    return {path.relative_to(results).as_posix(): path for path in sorted(set(files)) if path.is_file()}


# --- the chain behind its numbers ----------------------------------------------------------------

NOT_HASHED = "not hashed here"
NOTE = "As of the making of this page: each file was read and hashed, and compared with what its maker recorded."
UNJUDGED = " Whether anything is stale was not judged: there was no config/ beside the results."


def links_data(proof: Proof, left_out: Mapping[Path, int], judged: bool) -> dict[str, Any]:
    """Nodes, jobs and findings by number and path; see findings/web/chain.js.

    `left_out`: files too large to be hashed for a page, with their sizes. `judged`: whether staleness was judged.
    """
    lineage = proof.lineage
    facts = {link.path: (link.kind, str(link.status), link.now.sha256, link.now.bytes) for link in proof.links}
    for path, size in left_out.items():
        maker = lineage.makers.get(path)
        facts[path] = (inquiry.kind_of(path), NOT_HASHED, maker.outputs[path].sha256 if maker else None, size)
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
        "packages": versions(manifest),
        "command": shlex.join(manifest.command),
        "inputs": [number[path] for path in job.inputs if path in number],
    }


# --- what it shows ------------------------------------------------------------------------------


def document(shown: Shown) -> str:
    """The whole page, self-contained: style, script and data are in it."""
    project, study, claims = shown.project, shown.project.study, shown.claims
    judged = {claim["artefact"] for claim in claims["claims"]} if claims else set[str]()
    return rendering.rendered(
        "page.html",
        title=f"CHORD: {study.title}",
        study=study,
        seeds=project.seeds,
        glance=_glance(shown),
        tables=[_table(data) for data in shown.artefacts.values() if "rows" in data],
        behind={*shown.chain["cells"], *shown.answers["cells"]},
        rule=rendering.rule(claims) if claims else "",
        summaries=rendering.summaries(claims) if claims else [],
        forest=_forest(shown.forest) if shown.forest else {},
        sizes=(rendering.SIZES_HEADS, rendering.sizes(claims) if claims else []),
        seeds_needed=(rendering.SEEDS_TITLE, rendering.SEEDS_HEADS, rendering.by_seeds(claims) if claims else []),
        claims=[_judged(claim) for claim in rendering.ordered(claims["claims"])] if claims else [],
        figures=[_figure(shown.artefacts[name], svg, name in judged) for name, svg in shown.drawings.items()],
        ran=_ran(shown.trainings),
        jobs=_jobs(shown.jobs),
        recipes=[_recipe(project.arms[name], project) for name in used_arms(project)],
        settings=_settings(project),
        ours=[(f"{one.file}: {one.key}", one.value, one.reason) for one in shown.ours],
        not_run=shown.not_run,
        chains=shown.chain["files"],
        data={
            "figure-data": _packed([_plotted(data) for data in shown.artefacts.values() if data.get("panels")]),
            "chain-data": _packed(shown.chain),
            "answer-data": _packed(shown.answers),
        },
    )


def _packed(value: Any) -> str:
    """JSON, gzip, base64: small, and nothing in it can be taken for HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    content = gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=9, mtime=0)
    return base64.b64encode(content).decode("ascii")


def _glance(shown: Shown) -> Rows:
    """The whole study in a few numbers: of what, how many, more of it in words."""
    runs = [one for group in shown.trainings.values() for one in group if one.manifest]
    nodes, bad = shown.chain["nodes"], set(shown.chain["bad"])
    broken = sum(node["status"] in bad for node in nodes)
    statuses = Counter(node["status"] for node in nodes).most_common()
    held = ", ".join(f"{number:,} {status}" for status, number in statuses)
    trained = reading.duration(sum(one.seconds for one in runs))
    tiles = [
        ("Tables and figures", str(len(shown.artefacts)), f"seeds {', '.join(map(str, shown.project.seeds))}"),
        ("Training runs", str(len(runs)), f"{trained} of training"),
        ("Jobs", str(len(shown.jobs)), f"{reading.duration(sum(one.seconds for one in shown.jobs))} in all"),
        ("Links behind the numbers", f"{broken} of {len(nodes)} broken" if broken else f"{len(nodes)}, all hold", held),
    ]
    if shown.claims:
        count = Counter(claim["verdict"] for claim in shown.claims["claims"])
        words = ", ".join(f"{count[verdict]} {verdict}" for verdict in ORDER if count[verdict])
        tiles.append(("Claims of the paper", str(count.total()), words))
    return tiles


# --- tables and claims ---------------------------------------------------------------------------


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the words below it, and how far the bars of each column go."""
    scales = {}
    for key in (column["benchmark"] for column in table["columns"]):
        cells = [row["cells"][key] for row in table["rows"]]
        most = max(max(cell["mean"] + cell["se"], cell["paper"] or 0.0) for cell in cells) or 1.0
        scales[key] = 100.0 if table["unit"] == "percent" else most
    bars = "The bar shows the mean and one standard error to each side; a diamond is the paper's number. "
    shown = rendering.shown(table)
    return {**shown, "words": bars + shown["words"], "scales": scales}


def _judged(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim with its difference, p and n in words."""
    p, smallest = claim["p_corrected"], claim["smallest"]
    sizes = ("n_seeds", "seeds"), ("n_problems", "problems")
    return {
        **claim,
        "difference": rendering.difference(claim),
        "smallest": "" if smallest is None else f"{smallest:.3g} {claim['unit']}",
        "p": NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "n": ", ".join(f"{claim[key]} {name}" for key, name in sizes if claim[key]) or NONE,
    }


# --- figures -------------------------------------------------------------------------------------


def _figure(data: dict[str, Any], svg: str, judged: bool) -> dict[str, Any]:
    """A figure drawn in place and its caption; ids begin with the figure's name, so that two do not mix theirs."""
    return {**data, "svg": _inlined(svg, data["artefact"]), "caption": _figure_caption(data, judged)}


def _forest(svg: str) -> dict[str, str]:
    return {"title": forest.TITLE, "svg": _inlined(svg, "claims"), "caption": forest.CAPTION}


def _inlined(svg: str, name: str) -> str:
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    return re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", body).strip()


def _figure_caption(figure: dict[str, Any], judged: bool) -> str:
    """How the curves are averaged, and what the paper claims; `judged`: the page shows verdicts on the claims."""
    if figure.get("kind") == "scheme":
        return f"Drawn from the formulas; no run stands behind it. The paper: {figure['paper']['claim']}"
    seeds = ", ".join(map(str, figure["seeds"]))
    if len(figure["seeds"]) > 1:
        text = f"Lines: mean over seeds {seeds}; bands: mean ± one standard error over these seeds. "
    else:
        text = f"One seed ({seeds}), so there is no band. "
    for panel in figure["panels"]:
        if (points := panel["smoothing"]["points"]) > 1:
            label = panel["label"].capitalize()
            text += f"{label}: centered moving mean over {points} points of each seed, shorter at the ends. "
        if panel["arms_without_values"]:
            text += f"No such value exists for {', '.join(panel['arms_without_values'])}. "
    if figure["paper"]["claim"]:
        text += f"The paper ({figure['paper']['model']}): {figure['paper']['claim']} "
        text += "" if judged else "Its words give no threshold to compute, so there is no verdict."
    return text.strip()


def _plotted(data: dict[str, Any]) -> dict[str, Any]:
    """What the script draws of a figure, with as many digits as can be seen."""

    def short(numbers: list[float]) -> list[float]:
        return [float(f"{number:.6g}") for number in numbers]

    panels: list[dict[str, Any]] = []
    for panel in data["panels"]:
        curves = [
            {"arm": curve["arm"], "label": curve["label"]}
            | {key: short(curve[key]) for key in ("x", "mean", "low", "high")}
            | {"by_seed": {seed: short(points) for seed, points in curve["by_seed"].items()}}
            for curve in panel["curves"]
        ]
        panels.append({"label": panel["label"], "share_of_one": panel["share_of_one"], "curves": curves})
    return {"artefact": data["artefact"], "x": {"label": data["x"]["label"]}, "panels": panels}


# --- what ran ------------------------------------------------------------------------------------

PACKAGES = ("chord", "torch", "transformers", "vllm", "deepspeed", "tokenizers", "lm-eval", "lm_eval", "datasets",
            "reasoning-gym", "numpy")  # fmt: skip


def _ran(found: dict[str, list[Training]]) -> dict[str, Any]:
    """Training runs in a sentence; by arm, how many, how long, mostly for what; and each with its start and end."""
    known = [one for runs in found.values() for one in runs if one.manifest]
    manifests = [one.manifest for one in known if one.manifest]
    if not manifests:
        words = "No manifest of a training run was found, so machines and times are unknown."
        return {"words": words, "arms": [], "runs": []}
    total = reading.duration(sum(one.seconds for one in known))
    installed = [(name, one.installed.packages.get(name)) for name in PACKAGES for one in manifests]
    versions = reading.shared(f"{name} {version}" for name, version in installed if version)
    first, last = min(one.started for one in manifests), max(one.ended for one in manifests)
    words = (
        f"{len(known)} training runs, {total} of training in all, between {_time(first)} and {_time(last)} UTC, on"
        f" {reading.shared(map(reading.device, manifests))}. Python"
        f" {reading.shared(one.installed.python for one in manifests)}; {versions}. Commit:"
        f" {reading.shared(map(reading.commit, manifests))}."
    )
    arms = [_arm(arm, runs) for arm, runs in found.items()]
    return {"words": words, "arms": arms, "runs": [_run(one) for runs in found.values() for one in runs]}


def _arm(arm: str, runs: Sequence[Training]) -> tuple[str, ...]:
    """One arm's line: how many runs, how long, and where the time went."""
    recorded = [one for one in runs if one.manifest]
    took = reading.duration(sum(one.seconds for one in recorded) / len(recorded)) if recorded else "no record"
    phases: Counter[str] = Counter()
    for one in runs:
        phases.update(one.phases)  # adds seconds
    shares = {phase: spent / (phases.total() or 1.0) for phase, spent in phases.items()}
    parts = ", ".join(f"{phase} {100 * share:.0f} %" for phase, share in shares.items() if share >= 0.02)
    peak = max((line.get("peak_memory_mb") or 0 for one in runs for line in one.timing), default=0)
    steps = reading.shared(str(one.steps) for one in runs if one.timing)
    return (arm, f"{len(recorded)} of {len(runs)}", steps, took, parts, f"{peak:,.0f} MB" if peak else "")


def _run(one: Training) -> tuple[str, ...]:
    name = "/".join(one.folder.parts[-2:])
    if one.manifest is None:
        return (name, "no record", "", "")
    return (name, _time(one.manifest.started), _time(one.manifest.ended), reading.duration(one.seconds))


def _time(stamp: str) -> str:
    """A time stamp to the second, with a space for its T."""
    return stamp[:19].replace("T", " ")


def _jobs(manifests: Sequence[Manifest]) -> Rows:
    """The time that each verb took, by the manifests of its jobs, and all of them together."""
    groups: dict[str, list[Manifest]] = {}
    for one in manifests:
        groups.setdefault(one.verb, []).append(one)
    rows = [_spent(verb, group) for verb, group in groups.items()]
    return [*rows, _spent("all", manifests)] if len(rows) > 1 else rows


def _spent(verb: str, manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Wall time; core time (threads × processes) and GPU time (ranks), as they were reserved."""

    def recorded(one: Manifest, name: str) -> int:
        number = one.extra.get(name)
        return number if isinstance(number, int) and number > 0 else 1

    wall = sum(one.seconds for one in manifests)
    cores = sum(one.seconds * recorded(one, "cpu_threads") * recorded(one, "ranks") for one in manifests)
    gpus = sum(one.seconds * recorded(one, "ranks") for one in manifests if _is_gpu(one))
    times = (reading.duration(wall), reading.duration(cores), reading.duration(gpus) if gpus else "none")
    return (verb, str(len(manifests)), *times, reading.shared(map(reading.device, manifests)))


def _is_gpu(manifest: Manifest) -> bool:
    device = manifest.extra.get("device")
    kind = device.get("type") or device.get("name") if isinstance(device, dict) else device
    return bool(kind) and str(kind) != "cpu"


# --- values --------------------------------------------------------------------------------------

SETTINGS = ("model", "data", "expert", "grading", "rollouts", "expert_rows_per_step", "optimiser", "policy_loss",
            "validation", "execution")  # fmt: skip


def used_arms(project: Project) -> list[str]:
    """The arms of the chosen artefacts and those that they start from or choose between, in the order of arms.yaml."""
    waiting = [arm for name in project.choice.artefacts for arm in project.artefacts[name].arms]
    used: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in used or name not in project.arms:
            continue
        used.add(name)
        arm = project.arms[name]
        waiting += [*(arm.choose or ()), *([arm.recipe.init] if arm.recipe else [])]
    return [name for name in project.arms if name in used]


def _settings(project: Project) -> Rows:
    """What the study sets for every arm."""
    study = project.study.model_dump(mode="json")
    execution = study["execution"]
    study["execution"] = {key: execution[key] for key in Arithmetic.model_fields if key in execution}
    return [(key, _said(study[key])) for key in SETTINGS]


def _recipe(arm: Arm, project: Project) -> tuple[str, ...]:
    if arm.choose:
        labels = ", ".join(project.arms[name].label for name in arm.choose)
        return (arm.label, f"the best on the validation set of: {labels}", "", "", "", "", "")
    if arm.recipe is None:
        return (arm.label, "the base model itself", "", "", "", "", "")
    recipe: Recipe = arm.recipe
    start = project.arms[recipe.init].label if recipe.init in project.arms else recipe.init
    tokens = _said(recipe.expert_tokens.model_dump(mode="json")).removeprefix("weight ")
    weight = tokens if recipe.needs_experts else "none used"
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epoch{'' if recipe.epochs == 1 else 's'}"
    return (arm.label, start, recipe.mu.words, weight, length, f"{recipe.learning_rate:g}", recipe.keep)


def _said(value: Raw) -> str:
    """Plain data in one line, without values that are None."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_said(item)}" for key, item in value.items() if item is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def not_run(root: Path, project: Project) -> Iterator[str]:
    """What the paper or config/ has and this page has not, so that nobody takes its absence for a result."""
    for name in project.choice.artefacts:
        artefact = project.artefacts[name]
        if not isinstance(artefact, Tabled):
            continue
        title = artefact.title.split(":")[0]
        rows = [arm for arm in artefact.paper.rows if arm not in artefact.arms]
        if rows := [project.arms[arm].label if arm in project.arms else arm for arm in rows]:
            yield f"Rows of the paper's {title} that no run here stands for: {', '.join(rows)}."
        benchmarks = [project.study.benchmarks[key] for key in benchmarks_of(project.study, artefact)]
        here = {artefact.paper.column(benchmark.paper_columns) for benchmark in benchmarks}
        if lacking := [column for column in artefact.paper.columns if column not in here]:
            yield f"Columns of the paper's {title} without a benchmark here: {', '.join(lacking)}."
    if spare := [project.arms[name].label for name in project.arms if name not in used_arms(project)]:
        yield f"Arms in config/arms.yaml that no chosen table or figure needs: {', '.join(spare)}."
    absent = {name: reason for name in project.artefacts if (reason := project.why_not(name))}
    if unbuilt := [name for name in project.artefacts if name not in project.choice.artefacts and name not in absent]:
        yield f"Tables and figures in config/experiments that were not chosen: {', '.join(unbuilt)}."
    for name, reason in absent.items():
        yield f"{project.artefacts[name].title} is not built in this study: {reason}."
    studies = sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))
    if others := [name for name in studies if name != project.study.name]:
        yield f"Other studies in config/studies, which this page says nothing about: {', '.join(others)}."
    yield "The paper's own models and data are not part of this study; its numbers stand beside ours for orientation."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chord report", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument(
        "--results", required=True, type=Path, help="the study's folder: the one that holds table1.json"
    )
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--html", required=True, type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --html, ending in .manifest.json")
    return parser

"""The page of a study: a document of tables, claims, figures, what ran and where each number comes from."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from chord.config.load import Ours
from chord.config.paper import Tabled, benchmarks_of
from chord.config.project import Project
from chord.config.recipe import Arm, Recipe
from chord.config.study import Arithmetic
from chord.findings import reading, rendering
from chord.findings.reading import Training
from chord.findings.rendering import NONE, ORDER, SYMBOLS
from chord.provenance.manifest import Manifest

# --- values --------------------------------------------------------------------------------------

# The values behind a study as the page shows them: by arm, of the study, those that are ours; what was not run.


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


def ours(marked: Sequence[Ours]) -> str:
    """The marked values with their reasons."""
    if not marked:
        return "<p>No value in config/ is marked <code># ours:</code>.</p>"
    rows = [(f"{one.file}: {one.key}", one.value, one.reason) for one in marked]
    return rendering.rows_part(("where", "value", "why it is ours"), rows)


def value_tables(project: Project) -> Iterator[str]:
    """Every value that decides a model, by arm; what the study sets for all of them below."""
    rows = [_recipe(project.arms[name], project) for name in used_arms(project)]
    yield rendering.rows_part(
        ("arm", "starts from", "µ", "expert weight", "length", "learning rate", "keeps step"), rows
    )
    study = project.study.model_dump(mode="json")
    execution = study["execution"]
    study["execution"] = {key: execution[key] for key in Arithmetic.model_fields if key in execution}
    yield "<details><summary>What the study sets for every arm</summary>"
    shown = ("model", "data", "expert", "grading", "rollouts", "expert_rows_per_step", "optimiser", "policy_loss",
             "validation", "execution")  # fmt: skip
    yield rendering.rows_part(("key", "value"), [(key, _said(study[key])) for key in shown])
    yield "</details>"


def _recipe(arm: Arm, project: Project) -> tuple[str, ...]:
    if arm.choose:
        labels = ", ".join(project.arms[name].label for name in arm.choose)
        return (arm.label, f"the best on the validation set of: {labels}", "", "", "", "", "")
    if arm.recipe is None:
        return (arm.label, "the base model itself", "", "", "", "", "")
    recipe: Recipe = arm.recipe
    start = project.arms[recipe.init].label if recipe.init in project.arms else recipe.init
    weight = (
        _said(recipe.expert_tokens.model_dump(mode="json")).removeprefix("weight ")
        if recipe.needs_experts
        else "none used"
    )
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epoch{'' if recipe.epochs == 1 else 's'}"
    return (arm.label, start, recipe.mu.words, weight, length, f"{recipe.learning_rate:g}", recipe.keep)


def _said(value: Any) -> str:
    """Plain data in one line; what is not set is left out."""
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
        rows = [
            project.arms[arm].label if arm in project.arms else arm
            for arm in artefact.paper.rows
            if arm not in artefact.arms
        ]
        if rows:
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
    if others := [name for name in studies_beside(root) if name != project.study.name]:
        yield f"Other studies in config/studies, which this page says nothing about: {', '.join(others)}."
    yield "The paper's own models and data are not part of this study; its numbers stand beside ours for orientation."


def studies_beside(root: Path) -> list[str]:
    """The names of all studies in config/studies."""
    return sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))


# --- ran -----------------------------------------------------------------------------------------

# What was run, where and for how long, for the page: training runs, and the time of every kind of job.

PACKAGES = ("chord", "torch", "transformers", "vllm", "deepspeed", "tokenizers", "lm-eval", "lm_eval", "datasets",
            "reasoning-gym", "numpy")  # fmt: skip


def kinds_of_jobs(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A table of the time that each verb took, by the manifests of its jobs."""
    verbs = sorted({one.verb for one in manifests}, key=[one.verb for one in manifests].index)
    groups = {verb: [one for one in manifests if one.verb == verb] for verb in verbs}
    rows = [_kind(verb, group) for verb, group in groups.items()]
    if len(rows) > 1:
        rows.append(_kind("all", manifests))
    yield rendering.rows_part(("step", "jobs", "wall time", "core time", "GPU time", "where"), rows)
    yield (
        '<p class="soft">Of the jobs behind what is shown, by the manifest of each: its last, successful attempt.'
        " Core time is wall time × threads × processes, GPU time is wall time × GPUs; both are what was reserved, not"
        " what was busy. Attempts that failed or were stopped are in <code>provenance/ledger.jsonl</code>.</p>"
    )


def _kind(verb: str, manifests: Sequence[Manifest]) -> tuple[str, ...]:
    wall = sum(one.seconds for one in manifests)
    cores = sum(one.seconds * _threads(one) * _processes(one) for one in manifests)
    gpus = sum(one.seconds * _processes(one) for one in manifests if _is_gpu(one))
    where = reading.shared(map(reading.device, manifests))
    gpu_time = reading.duration(gpus) if gpus else "none"
    return (verb, str(len(manifests)), reading.duration(wall), reading.duration(cores), gpu_time, where)


def _threads(manifest: Manifest) -> int:
    """The threads of one process, as it recorded them; verbs that record none have one."""
    found = manifest.extra.get("cpu_threads")
    return found if isinstance(found, int) and found > 0 else 1


def _processes(manifest: Manifest) -> int:
    """Ranks of a training; one for everything else."""
    found = manifest.extra.get("ranks")
    return found if isinstance(found, int) and found > 0 else 1


def _is_gpu(manifest: Manifest) -> bool:
    device = manifest.extra.get("device")
    kind = device.get("type") or device.get("name") if isinstance(device, dict) else device
    return bool(kind) and str(kind) != "cpu"


def trainings(found: dict[str, list[Training]]) -> Iterator[str]:
    """Training runs by arm: how many, how long, mostly for what; and each with its start and end."""
    known = [one for runs in found.values() for one in runs if one.manifest]
    if not known:
        yield "<p>No manifest of a training run was found, so nothing can be said of machines and times.</p>"
        return
    manifests = [one.manifest for one in known if one.manifest]
    yield f"<p>{_summary(known, manifests)}</p>"
    yield rendering.rows_part(
        ("arm", "runs", "steps", "a run took", "mostly for", "peak memory"),
        (_ran(arm, runs) for arm, runs in found.items()),
    )
    yield "<details><summary>Every run with its start and end</summary>"
    yield rendering.rows_part(
        ("run", "started (UTC)", "ended (UTC)", "took"),
        (_run(one) for runs in found.values() for one in runs),
    )
    yield "</details>"


def _summary(known: Sequence[Training], manifests: Sequence[Manifest]) -> str:
    total = reading.duration(sum(one.seconds for one in known))
    commits = reading.shared(map(reading.commit, manifests))
    versions = reading.shared(
        f"{name} {each.installed.packages[name]}"
        for name in PACKAGES
        for each in manifests
        if name in each.installed.packages
    )
    first, last = min(each.started for each in manifests), max(each.ended for each in manifests)
    where = reading.shared(map(reading.device, manifests))
    return (
        f"{len(known)} training runs, {total} of training in all, between {_time(first)} and {_time(last)} UTC,"
        f" on {escape(where)}."
        f" Python {escape(reading.shared(each.installed.python for each in manifests))}; {escape(versions)}."
        f" Commit: {escape(commits)}."
    )


def _run(one: Training) -> tuple[str, ...]:
    name = "/".join(one.folder.parts[-2:])
    if one.manifest is None:
        return (name, "no record", "", "")
    return (name, _time(one.manifest.started), _time(one.manifest.ended), reading.duration(one.seconds))


def _time(stamp: str) -> str:
    """A time stamp to the second, with a space for its T."""
    return stamp[:19].replace("T", " ")


def _ran(arm: str, runs: Sequence[Training]) -> tuple[str, ...]:
    """One arm's line: how many runs, how long, and where the time went."""
    recorded = [one for one in runs if one.manifest]
    took = reading.duration(sum(one.seconds for one in recorded) / len(recorded)) if recorded else "no record"
    phases = _phases(runs)
    whole = sum(phases.values()) or 1.0
    parts = ", ".join(
        f"{phase} {100 * spent / whole:.0f} %" for phase, spent in phases.items() if spent / whole >= 0.02
    )
    peak = max((line.get("peak_memory_mb") or 0 for one in runs for line in one.timing), default=0)
    steps = reading.shared(str(one.steps) for one in runs if one.timing)
    return (arm, f"{len(recorded)} of {len(runs)}", steps, took, parts, f"{peak:,.0f} MB" if peak else "")


def _phases(runs: Iterable[Training]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in runs:
        for phase, spent in one.phases.items():
            total[phase] = total.get(phase, 0.0) + spent
    return total


# --- sheet ---------------------------------------------------------------------------------------

# A table of the page: ours and the paper's number side by side, error bars, n, and what opens behind each number.
#
# Goes by the shape of the JSON (columns, rows, cells), so that any table of a study can be shown. Computes no result.

BAR, HEIGHT, EDGE = 96, 10, 5  # of an error bar, in CSS pixels


def table_part(table: Mapping[str, Any], behind: frozenset[str]) -> str:
    """The table with its caption; numbers of the cells (ARM/BENCHMARK) in `behind` can be opened."""
    columns = table["columns"]
    scales = {column["benchmark"]: _scale(table, column["benchmark"]) for column in columns}
    body, about = [], []
    for row in table["rows"]:
        parts = [f'<th scope="row">{escape(row["label"])}</th>']
        for column in columns:
            key = column["benchmark"]
            cell = row["cells"].get(key)
            name = f"{row['arm']}/{key}"
            parts.append(f"<td>{_ours(table, row, column, cell, scales[key], name in behind)}</td>")
            parts.append(f'<td class="paper">{_paper(cell)}</td>')
            if name in behind:
                about.append(_about(table, row, column, cell))
        body.append(f"<tr>{''.join(parts)}</tr>")
    head = _head(table, columns)
    words = " ".join([_caption(table), *rendering.notes(dict(table))])
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table["title"])}"><table class="numbers">\n'
        f"{head}\n<tbody>\n{chr(10).join(body)}\n</tbody>\n</table></div>\n"
        f'<p class="soft">{escape(words)}</p>\n{"".join(about)}'
    )


def number(table: Mapping[str, Any], cell: Mapping[str, Any] | None) -> tuple[str, str]:
    """Mean and standard error as they are shown, apart; dashes where there is none."""
    if not cell or not isinstance(cell.get("mean"), int | float):
        return rendering.NONE, ""
    se = cell.get("se")
    known = isinstance(se, int | float) and math.isfinite(se)
    return f"{cell['mean']:.1f}", f"± {se:.1f}" if known else ""


def _head(table: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> str:
    unit = {"percent": "%"}.get(str(table.get("unit")), str(table.get("unit") or ""))
    top, below = ['<th rowspan="2" scope="col">arm</th>'], []
    for column in columns:
        top.append(f'<th colspan="2" scope="colgroup">{escape(column["label"])}</th>')
        said = ", ".join(filter(None, (column.get("metric"), unit)))
        below.append(f'<th scope="col">ours,<br>mean ± se<br><small>{escape(said)}</small></th>')
        paper = escape(rendering.paper_heading(dict(table))).replace(": ", ":<br>", 1)
        name = escape(column.get("paper_column") or rendering.NONE)
        below.append(f'<th scope="col" class="paper">{paper}<br><small>{name}</small></th>')
    return f"<thead>\n<tr>{''.join(top)}</tr>\n<tr>{''.join(below)}</tr>\n</thead>"


def _ours(table: Mapping[str, Any], row: Any, column: Any, cell: Any, scale: tuple[float, float], opens: bool) -> str:
    mean, se = number(table, cell)
    text = f"{mean} <i>{se}</i>" if se else mean
    if opens:
        title = f"{row['label']}, {column['label']}: {mean} {se}".strip()
        text = (
            f'<button type="button" class="cell" aria-haspopup="dialog" data-title="{escape(title)}"'
            f' data-table="{escape(table["artefact"])}" data-cell="{escape(row["arm"])}/{escape(column["benchmark"])}"'
            f' aria-label="{escape(title)}; what is behind it">{text}</button>'
        )
    if not cell or mean == rendering.NONE:
        return text
    return f"{text}{_bar(cell, scale)}<small>{_count(cell)}</small>"


def _count(cell: Mapping[str, Any]) -> str:
    """n of a cell, as far as it is known."""
    sizes = [cell.get(name) for name in ("n_seeds", "n_problems", "samples_per_problem")]
    return "n = " + " × ".join(f"{size:g}" for size in sizes if isinstance(size, int | float))


def _paper(cell: Any) -> str:
    return escape(rendering.paper_value(cell)) if cell and "paper" in cell else rendering.NONE


def _scale(table: Mapping[str, Any], benchmark: str) -> tuple[float, float]:
    """From where to where the bars of a column go: percent from 0 to 100, other units as far as their values."""
    if table.get("unit") == "percent":
        return 0.0, 100.0
    cells = [row["cells"].get(benchmark) or {} for row in table["rows"]]
    ends = [cell["mean"] + (cell.get("se") or 0) for cell in cells if isinstance(cell.get("mean"), int | float)]
    ends += [cell["paper"] for cell in cells if isinstance(cell.get("paper"), int | float)]
    return 0.0, max(ends, default=1.0) or 1.0


def _bar(cell: Mapping[str, Any], scale: tuple[float, float]) -> str:
    """Mean with one standard error to each side, and the paper's number as a diamond, on the column's scale."""
    low, high = scale

    def at(value: float) -> float:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(EDGE + share * (BAR - 2 * EDGE), 1)

    middle, mean, se = HEIGHT / 2, float(cell["mean"]), cell.get("se")
    parts = [f'<path class="rail" d="M{EDGE} {middle}H{BAR - EDGE}"/>']
    if isinstance(se, int | float) and math.isfinite(se):
        parts.append(f'<path class="se" d="M{at(mean - se)} {middle}H{at(mean + se)}"/>')
    paper = cell.get("paper")
    if isinstance(paper, int | float):
        parts.append(f'<path class="published" d="M{at(paper)} 1l4 4l-4 4l-4 -4z"/>')
    parts.append(f'<circle class="mean" cx="{at(mean)}" cy="{middle}" r="2.6"/>')
    return f'<svg class="bar" viewBox="0 0 {BAR} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'


def _about(table: Mapping[str, Any], row: Any, column: Any, cell: Any) -> str:
    """What the dialog says first of a cell; a template, so that nothing is shown before it is opened."""
    mean, se = number(table, cell)
    seeds = list(zip(table["seeds"], (cell or {}).get("by_seed") or (), strict=False))
    parts = [f"<b>{mean}</b> {escape(se)}"]
    parts += ["by seed: " + ", ".join(f"{seed}: {value:.1f}" for seed, value in seeds)] if seeds else []
    parts += [escape(_count(cell)) + " (seeds × problems × samples)"] if cell else []
    parts += [f"paper: {_paper(cell)}"] if cell and cell.get("paper") is not None else []
    name = f"about-{table['artefact']}-{row['arm']}/{column['benchmark']}"
    return f'<template id="{escape(name)}"><p>{"; ".join(parts)}</p></template>'


def _caption(table: Mapping[str, Any]) -> str:
    """How to read the table; of tables that are not of percent only what holds for any."""
    bars = "The bar shows the mean and one standard error to each side; a diamond is the paper's number. "
    if table.get("unit") == "percent":
        return bars + rendering.caption(dict(table))
    return bars + f"Mean ± standard error, in {table.get('unit') or 'its unit'}. {rendering.NONE}: not known."


# --- verdict table -------------------------------------------------------------------------------

# The paper's claims with verdicts as a table of the page, out of claims.json. Judges nothing.

CLASSES = {"holds": "yes", "fails": "no"}


def counted(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims have which verdict."""
    found = Counter(str(claim["verdict"]) for claim in claims)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in dict.fromkeys([*ORDER, *found]) if found[verdict])


def part(claims: Sequence[Mapping[str, Any]]) -> str:
    """Each claim with its verdict, what was found, how sure that is; claims that were not run stand last, folded."""
    run = [claim for claim in claims if claim["verdict"] != "not run"]
    rest = [claim for claim in claims if claim["verdict"] == "not run"]
    parts = [_table(run)] if run else ["<p>None of the claims was run in this study.</p>"]
    if rest:
        parts.append(f"<details><summary>{len(rest)} claims that were not run here</summary>{_table(rest)}</details>")
    return "\n".join(parts)


def _table(claims: Sequence[Mapping[str, Any]]) -> str:
    heads = ("verdict", "claim of the paper", "difference ± se", "p, corrected", "n")
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "\n".join(f"<tr>{_row(claim)}</tr>" for claim in claims)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Claims"><table class="text verdicts">'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(claim: Mapping[str, Any]) -> str:
    verdict = str(claim["verdict"])
    chip = f'<span class="chip {CLASSES.get(verdict, "open")}">{SYMBOLS.get(verdict, "")} {escape(verdict)}</span>'
    said = [str(claim[key]) for key in ("found", "reason") if claim.get(key)]
    below = "".join(f"<small>{escape(words)}</small>" for words in said)
    evidence = f"<small>Paper: {escape(str(claim['evidence']))}</small>" if claim.get("evidence") else ""
    sentence = escape(str(claim.get("sentence") or claim.get("claim")))
    return (
        f"<td>{chip}</td><td>{sentence}{below}{evidence}</td><td>{escape(_difference(claim))}</td>"
        f"<td>{escape(_p(claim))}</td><td>{escape(_n(claim))}</td>"
    )


def _difference(claim: Mapping[str, Any]) -> str:
    found, se = claim.get("difference"), claim.get("se")
    if not isinstance(found, int | float):
        return NONE
    error = f" ± {se:.3g}" if isinstance(se, int | float) else ""
    return f"{found:+.3g}{error} {claim.get('unit') or ''}".strip()


def _p(claim: Mapping[str, Any]) -> str:
    found = claim.get("p_corrected")
    return NONE if not isinstance(found, int | float) else "< 0.001" if found < 0.001 else f"{found:.3f}"


def _n(claim: Mapping[str, Any]) -> str:
    """Seeds and problems, and the seeds that would decide it."""
    sizes = (("n_seeds", "seeds"), ("n_problems", "problems"))
    parts = [f"{claim[key]} {name}" for key, name in sizes if claim.get(key)]
    parts += [f"{claim['seeds_needed']} seeds to decide"] if claim.get("seeds_needed") else []
    return ", ".join(parts) or NONE


# --- document ------------------------------------------------------------------------------------

# The page of a study, section by section, as one HTML file. Puts together what others found; computes nothing.

SECTIONS = {
    "tables": "Tables",
    "claims": "Claims",
    "figures": "Figures",
    "ran": "What was run",
    "values": "Values",
    "not-run": "Not run",
}


@dataclass(frozen=True)
class Shown:
    """All that the page shows. `chain`, `answers`: see chord.audit.chain and samples; `drawings`: SVG by figure."""

    project: Project
    artefacts: dict[str, dict[str, Any]]
    drawings: dict[str, str]
    claims: dict[str, Any] | None
    trainings: dict[str, list[reading.Training]]
    jobs: list[Manifest]
    chain: dict[str, Any]
    answers: dict[str, Any]
    ours: list[Ours]
    not_run: list[str]


def document(shown: Shown) -> str:
    """The whole page, self-contained: style, script and data are in it."""
    title = escape(f"CHORD: {shown.project.study.title}")
    figures = [_plotted(data) for data in shown.artefacts.values() if data.get("panels")]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{rendering.style()}</style>\n</head>\n<body>\n"
        + "\n".join(_body(shown))
        + "\n"
        + "\n".join(
            packed
            for packed in (
                rendering.packed("figure-data", figures),
                rendering.packed("chain-data", shown.chain),
                rendering.packed("answer-data", shown.answers),
            )
        )
        + f"\n<script>\n{rendering.script()}</script>\n</body>\n</html>\n"
    )


def _body(shown: Shown) -> Iterator[str]:
    """The parts of the page, in reading order."""
    study = shown.project.study
    yield '<a class="skip" href="#main">To the tables</a>'
    yield '<header class="top">\n<button type="button" id="theme" hidden></button>\n<h1>CHORD, reproduced</h1>'
    yield (
        f'<p class="soft">{escape(study.title)}. Study <code>{escape(study.name)}</code>, training seeds'
        f" {', '.join(map(str, shown.project.seeds))}. The method: <em>On-Policy RL Meets Off-Policy Experts</em>,"
        " arXiv:2508.11408.</p>"
    )
    present = [name for name in SECTIONS if name != "claims" or shown.claims]
    items = "".join(f'<li><a href="#{name}">{SECTIONS[name]}</a></li>' for name in present)
    yield f'<nav aria-label="Sections"><ul>{items}</ul></nav>\n{_glance(shown)}\n</header>\n<main id="main">'
    yield from _tables(shown)
    if shown.claims:
        yield f'<h2 id="claims">{SECTIONS["claims"]}</h2>\n<p>{escape(rendering.rule(shown.claims))}</p>'
        yield part(rendering.ordered(shown.claims["claims"]))
    yield from _figures(shown)
    yield f'<h2 id="ran">{SECTIONS["ran"]}</h2>'
    yield from trainings(shown.trainings)
    yield from kinds_of_jobs(shown.jobs) if shown.jobs else ()
    yield f'<h2 id="values">{SECTIONS["values"]}</h2>'
    yield from value_tables(shown.project)
    yield '<h3 id="ours">Values that are ours</h3>\n<p>The paper does not give them, or gives others.</p>'
    yield ours(shown.ours)
    yield f'<h2 id="not-run">{SECTIONS["not-run"]}</h2>'
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in shown.not_run) + "</ul>\n</main>"
    yield "<footer>Made by <code>chord report</code>; the manifest beside this file says from what.</footer>"
    yield (
        '<dialog id="inspector" aria-labelledby="inspector-title"><header><h2 id="inspector-title"></h2>'
        '<button type="button" class="close" aria-label="Close">Close</button></header>'
        '<div class="body"></div></dialog>'
    )


def _glance(shown: Shown) -> str:
    """The whole study in a few numbers."""
    runs = [one for group in shown.trainings.values() for one in group if one.manifest]
    nodes, bad = shown.chain["nodes"], set(shown.chain["bad"])
    broken = sum(node["status"] in bad for node in nodes)
    count = Counter(node["status"] for node in nodes)
    held = ", ".join(f"{number:,} {status}" for status, number in count.most_common())
    spent = sum(one.seconds for one in shown.jobs)
    tiles = [
        ("Tables and figures", str(len(shown.artefacts)), f"seeds {', '.join(map(str, shown.project.seeds))}"),
        ("Training runs", str(len(runs)), f"{reading.duration(sum(one.seconds for one in runs))} of training"),
        ("Jobs", f"{len(shown.jobs)}", f"{reading.duration(spent)} in all"),
        ("Links behind the numbers", f"{broken} of {len(nodes)} broken" if broken else f"{len(nodes)}, all hold", held),
    ]
    if shown.claims:
        claims = shown.claims["claims"]
        tiles.append(("Claims of the paper", str(len(claims)), counted(claims)))
    parts = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles if b)
    return f'<dl class="glance">{"".join(parts)}</dl>'


def _tables(shown: Shown) -> Iterator[str]:
    yield f'<h2 id="tables">{SECTIONS["tables"]}</h2>'
    yield '<p class="soft ask">Click a number to see what it was made of and what the models answered.</p>'
    behind = frozenset(shown.chain["cells"]) | frozenset(shown.answers["cells"])
    for name, data in shown.artefacts.items():
        if "rows" not in data or "columns" not in data:
            continue
        yield f'<section id="{escape(name)}">\n<h3>{escape(data["title"])} {_ask(shown, name, data["title"])}</h3>'
        yield table_part(data, behind)
        yield "</section>"


def _figures(shown: Shown) -> Iterator[str]:
    yield f'<h2 id="figures">{SECTIONS["figures"]}</h2>'
    for name, svg in shown.drawings.items():
        data = shown.artefacts[name]
        still = rendering.inline_svg(svg, name, data["title"])
        yield f'<figure id="{escape(name)}">\n<h3>{escape(data["title"])} {_ask(shown, name, data["title"])}</h3>'
        if data.get("panels"):
            yield f'<div class="plot" data-figure="{escape(name)}"></div>'
        yield f'<div class="still{" drawn" if data.get("panels") else ""}">{still}</div>'
        judged = bool(shown.claims and rendering.of_artefact(shown.claims, name))
        yield f"<figcaption>{escape(rendering.figure_caption(data, judged))}</figcaption>"
        yield "</figure>"


def _ask(shown: Shown, name: str, title: str) -> str:
    """The button that opens the chain of a whole table or figure."""
    file = f"{name}.json"
    if file not in shown.chain["files"]:
        return ""
    return (
        f'<button type="button" class="chip ask" aria-haspopup="dialog" data-title="{escape(title)}"'
        f' data-file="{escape(file)}">chain</button>'
    )


def _plotted(data: dict[str, Any]) -> dict[str, Any]:
    """What the script draws of a figure, with as many digits as can be seen."""
    panels = []
    for panel in data["panels"]:
        curves = [_curve(curve) for curve in panel["curves"]]
        panels.append({"label": panel["label"], "share_of_one": bool(panel.get("share_of_one")), "curves": curves})
    return {"artefact": data["artefact"], "x": {"label": data["x"]["label"]}, "panels": panels}


def _curve(curve: dict[str, Any]) -> dict[str, Any]:
    lines = {key: _short(curve[key]) for key in ("x", "mean")}
    lines |= {key: _short(curve.get(key) or curve["mean"]) for key in ("low", "high")}
    by_seed = {seed: _short(points) for seed, points in (curve.get("by_seed") or {}).items()}
    return {"arm": curve["arm"], "label": curve["label"], **lines, "by_seed": by_seed}


def _short(numbers: list[float]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]

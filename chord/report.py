"""One page for a study: its tables and figures, what the paper claims and what is found, what was run and what not.

The page needs nothing from outside: figures are drawn in place, and it opens offline.
"""

import argparse
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from chord.config import Arithmetic, Arm, MuConstant, MuDecay, Project, Recipe, Table, load, slices
from chord.findings import history, page, rendering, verdicts
from chord.findings.reading import read_json
from chord.provenance.files import UserError, run_verb, write_atomically
from chord.provenance.manifest import Manifest

PACKAGES = ("chord", "torch", "transformers", "tokenizers", "lm-eval", "lm_eval", "datasets", "reasoning-gym", "numpy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the study named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m chord.report", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument(
        "--results", required=True, type=Path, help="the study's folder: the one that holds table1.json"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="training seeds (default: those of config/)")
    parser.add_argument("--root", default=Path("."), type=Path, help="the folder that holds config/ (default: here)")
    parser.add_argument("--artefacts", nargs="+", help="tables and figures (default: those of config/config.yaml)")
    parser.add_argument("--html", required=True, type=Path)
    parser.add_argument("--manifest", type=Path, help="default: beside --html, ending in .manifest.json")
    given = parser.parse_args(arguments)
    chosen = {"artefacts": given.artefacts} if given.artefacts else {}
    project = load(given.root, given.study, tuple(given.seeds or ()), chosen)
    text = page.page(f"CHORD: {project.study.title}", _body(given.root, project, given.results))
    with Manifest.recording(
        given.manifest or given.html.with_suffix(".manifest.json"),
        verb="chord.report",
        step="report",
        decided_by=slices.of_page(project, studies_beside(given.root)),
        inputs=_inputs(project, given.results),
        outputs={given.html.name: given.html},
        extra={"study": project.study.name, "training_seeds": list(project.seeds)},
    ):
        write_atomically(given.html, text)


def _body(root: Path, project: Project, results: Path) -> Iterator[str]:
    """The parts of the page, in reading order."""
    study = project.study
    yield "<h1>CHORD, reproduced</h1>"
    yield (
        f'<p class="soft">{escape(study.title)}. Study <code>{escape(study.name)}</code>, training seeds'
        f" {', '.join(map(str, project.seeds))}. The method: arXiv:2508.11408.</p>"
    )
    tables = [name for name in project.choice.artefacts if isinstance(project.artefacts[name], Table)]
    for name in tables:
        table = rendering.read_table(results / f"{name}.json")
        yield f'<h2 id="{escape(name)}">{escape(table["title"])}</h2>'
        yield page.table_part(table)
    judged = verdicts.read_claims(results / "claims.json")
    yield f'<h2 id="claims">{escape(verdicts.TITLE)}</h2>'
    yield f"<p>{escape(verdicts.rule(judged))}</p><p>{escape(verdicts.counted(judged['claims']))}.</p>"
    yield verdicts.listed(verdicts.ordered(judged["claims"]))
    yield "<h2>Figures</h2>"
    for name in project.choice.artefacts:
        if name not in tables:
            figure, svg = _figure(results, name)
            yield page.figure_part(figure, svg, bool(verdicts.of_artefact(judged, name)))
    trainings = _trainings(project, results)
    yield from _what_ran(trainings)
    yield from _values(project)
    yield "<h2>Not run</h2>"
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in _not_run(root, project)) + "</ul>"


def _figure(results: Path, name: str) -> tuple[dict[str, Any], str]:
    what, remedy = "a figure that chord.plot wrote", "build it with snakemake"
    figure = read_json(results / f"{name}.json", what, remedy)
    if lacking := {"artefact", "title", "seeds", "panels", "paper"} - figure.keys():
        raise UserError(f"{results / name}.json: found no {', '.join(sorted(lacking))}, expected {what}; {remedy}")
    path = results / f"{name}.svg"
    try:
        svg = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError(f"{path}: found no drawing, expected the SVG of {name}; {remedy}") from None
    if "<svg" not in svg or "</svg>" not in svg:
        raise UserError(f"{path}: found {len(svg)} characters that are no whole SVG, expected that of {name}; {remedy}")
    return figure, svg


# --- what was run ------------------------------------------------------------------------------


def _trainings(project: Project, results: Path) -> dict[str, list[history.Training]]:
    """By arm, every training run that the chosen artefacts stand on; the study's own base model first."""
    found = {}
    if project.study.base_corpus:
        found["base model"] = [history.read_training("base model", results / "models" / "base")]
    for name in used_arms(project):
        if project.arms[name].recipe:
            folders = [results / "runs" / name / f"seed-{seed}" for seed in project.seeds]
            found[project.arms[name].label] = [history.read_training(name, folder) for folder in folders]
    return found


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


def _what_ran(trainings: dict[str, list[history.Training]]) -> Iterator[str]:
    known = [one for runs in trainings.values() for one in runs if one.manifest]
    yield "<h2>What was run</h2>"
    if not known:
        yield "<p>No manifest of a training run was found, so nothing can be said of machines and times.</p>"
        return
    manifests = [one.manifest for one in known if one.manifest]
    total = history.duration(sum(one.seconds for one in known))
    commits = history.shared(map(history.commit, manifests))
    versions = history.shared(
        f"{name} {each.installed.packages[name]}"
        for name in PACKAGES
        for each in manifests
        if name in each.installed.packages
    )
    first, last = min(each.started for each in manifests), max(each.ended for each in manifests)
    where = history.shared(map(history.device, manifests))
    yield (
        f"<p>{len(known)} training runs, {total} of training in all, between {_time(first)} and {_time(last)} UTC,"
        f" on {escape(where)}."
        f" Python {escape(history.shared(each.installed.python for each in manifests))}; {escape(versions)}."
        f" Commit: {escape(commits)}.</p>"
    )
    yield page.rows_part(
        ("arm", "runs", "steps", "a run took", "mostly for", "peak memory"),
        (_ran(arm, runs) for arm, runs in trainings.items()),
    )
    yield "<details><summary>Every run with its start and end</summary>"
    yield page.rows_part(
        ("run", "started (UTC)", "ended (UTC)", "took"),
        (
            (
                "/".join(one.folder.parts[-2:]),
                _time(one.manifest.started) if one.manifest else "no record",
                _time(one.manifest.ended) if one.manifest else "",
                history.duration(one.seconds) if one.manifest else "",
            )
            for runs in trainings.values()
            for one in runs
        ),
    )
    yield "</details>"


def _time(stamp: str) -> str:
    """A time stamp to the second, with a space for its T."""
    return stamp[:19].replace("T", " ")


def _ran(arm: str, runs: list[history.Training]) -> tuple[str, ...]:
    """One arm's line: how many runs, how long, and where the time went."""
    recorded = [one for one in runs if one.manifest]
    took = history.duration(sum(one.seconds for one in recorded) / len(recorded)) if recorded else "no record"
    phases: dict[str, float] = {}
    for one in runs:
        for phase, spent in one.phases.items():
            phases[phase] = phases.get(phase, 0.0) + spent
    whole = sum(phases.values()) or 1.0
    parts = ", ".join(
        f"{phase} {100 * spent / whole:.0f} %" for phase, spent in phases.items() if spent / whole >= 0.02
    )
    peak = max((line.get("peak_memory_mb") or 0 for one in runs for line in one.timing), default=0)
    steps = history.shared(str(one.steps) for one in runs if one.timing)
    return (arm, f"{len(recorded)} of {len(runs)}", steps, took, parts, f"{peak:,.0f} MB" if peak else "")


# --- values and what is missing ----------------------------------------------------------------


def _values(project: Project) -> Iterator[str]:
    """Every value that decides a model, by arm; what the study sets for all of them below."""
    yield "<h2>Values</h2>"
    rows = [_recipe(project.arms[name], project) for name in used_arms(project)]
    yield page.rows_part(("arm", "starts from", "µ", "expert weight", "length", "learning rate", "keeps step"), rows)
    study = project.study.model_dump(mode="json")
    study["execution"] = {key: study["execution"][key] for key in Arithmetic.model_fields if key in study["execution"]}
    yield "<details><summary>What the study sets for every arm</summary>"
    shown = ("model", "data", "expert", "grading", "rollouts", "expert_rows_per_step", "optimiser", "policy_loss",
             "validation", "execution")  # fmt: skip
    yield page.rows_part(("key", "value"), [(key, _said(study[key])) for key in shown])
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
    return (arm.label, start, _mu(recipe), weight, length, f"{recipe.learning_rate:g}", recipe.keep)


def _mu(recipe: Recipe) -> str:
    """The schedule of mu in a few words."""
    mu = recipe.mu
    if isinstance(mu, MuConstant):
        return f"{mu.value:g}"
    if isinstance(mu, MuDecay):
        rise = f"0 → {mu.peak:g} over {mu.warmup_steps} steps, then " if mu.warmup_steps else ""
        return f"{rise}{mu.peak:g} → {mu.valley:g} over {mu.decay_steps} steps"
    return _said(mu.model_dump(mode="json")).removeprefix("schedule ")


def _said(value: Any) -> str:
    """Plain data in one line; what is not set is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_said(item)}" for key, item in value.items() if item is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _not_run(root: Path, project: Project) -> Iterator[str]:
    """What the paper or config/ has and this page has not, so that nobody takes its absence for a result."""
    for name in project.choice.artefacts:
        artefact = project.artefacts[name]
        if not isinstance(artefact, Table):
            continue
        title = artefact.title.split(":")[0]
        rows = [
            project.arms[arm].label if arm in project.arms else arm
            for arm in artefact.paper.cells
            if arm not in artefact.arms
        ]
        if rows:
            yield f"Rows of the paper's {title} that no run here stands for: {', '.join(rows)}."
        here = {project.study.benchmarks[key].paper_column for key in artefact.benchmarks or project.study.benchmarks}
        columns = dict.fromkeys(column for cells in artefact.paper.cells.values() for column in cells)
        if lacking := [column for column in columns if column not in here]:
            yield f"Columns of the paper's {title} without a benchmark here: {', '.join(lacking)}."
    if spare := [project.arms[name].label for name in project.arms if name not in used_arms(project)]:
        yield f"Arms in config/arms.yaml that no chosen table or figure needs: {', '.join(spare)}."
    if unbuilt := [name for name in project.artefacts if name not in project.choice.artefacts]:
        yield f"Tables and figures in config/experiments that were not chosen: {', '.join(unbuilt)}."
    if others := [name for name in studies_beside(root) if name != project.study.name]:
        yield f"Other studies in config/studies, which this page says nothing about: {', '.join(others)}."
    yield "The paper's own models and data are not part of this study; its numbers stand beside ours for orientation."


def studies_beside(root: Path) -> list[str]:
    """The names of all studies in config/studies."""
    return sorted(path.stem for path in (root / "config" / "studies").glob("*.yaml"))


def _inputs(project: Project, results: Path) -> dict[str, Path]:
    """The files that the page is made of and that exist, by their places in the study."""
    chosen = project.choice.artefacts
    files = ["claims.json", *(f"{name}.json" for name in chosen)]
    files += [f"{name}.svg" for name in chosen if not isinstance(project.artefacts[name], Table)]
    for runs in _trainings(project, results).values():
        folders = [one.folder.relative_to(results) for one in runs]
        files += [str(folder / name) for folder in folders for name in ("train.manifest.json", "timing.jsonl")]
    return {name: results / name for name in files if (results / name).is_file()}


if __name__ == "__main__":
    run_verb("chord.report", main)

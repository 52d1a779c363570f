"""The values behind a study as the page shows them: by arm, of the study, those that are ours; what was not run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chord.config.load import Ours
from chord.config.paper import Tabled, benchmarks_of
from chord.config.project import Project
from chord.config.recipe import Arm, Recipe
from chord.config.study import Arithmetic
from chord.findings import page


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
    return page.rows_part(("where", "value", "why it is ours"), rows)


def values(project: Project) -> Iterator[str]:
    """Every value that decides a model, by arm; what the study sets for all of them below."""
    rows = [_recipe(project.arms[name], project) for name in used_arms(project)]
    yield page.rows_part(("arm", "starts from", "µ", "expert weight", "length", "learning rate", "keeps step"), rows)
    study = project.study.model_dump(mode="json")
    execution = study["execution"]
    study["execution"] = {key: execution[key] for key in Arithmetic.model_fields if key in execution}
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

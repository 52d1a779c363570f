"""The numbers of scores, tables, figures and claims made again from their inputs, by the functions that made them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chord.config.paper import Figure, Panel, Paper, Scheme
from chord.config.project import Project
from chord.errors import UserError
from chord.findings import claims, figures, table
from chord.findings.reading import read_json, read_scores
from chord.provenance.changes import Change, differences
from chord.provenance.check import Check, Finding, Status

SHOWN = 3
SAID = "number"


def score_differences(path: Path) -> list[Change]:
    """What in a scores.json does not follow from its outcomes. Raises UserError where they contradict its mean."""
    raw = read_json(path, "scores that chord score wrote", "score again")
    scored = read_scores(path, str(raw.get("benchmark")))
    counts = Counter(outcome for row in raw["problems"] for outcome in row["outcomes"])
    again = {
        "n_problems": len(scored.problems),
        "samples_per_problem": scored.samples,
        "pass_at_k": sum(1 for share in scored.right if share > 0) / len(scored.problems),
        "outcomes": {name: counts[name] for name in raw.get("outcomes", {})},
    }
    return differences(SAID, {name: raw.get(name) for name in again}, again)


def table_differences(path: Path, study: Path, cell: tuple[str, str] | None = None) -> list[Change]:
    """What in a table, or in one cell of it, does not follow from its scores."""
    data = read_json(path, "a table that chord tabulate wrote", "tabulate again")
    cells = {(row["arm"], benchmark): found for row in data["rows"] for benchmark, found in row["cells"].items()}
    wanted = [cell] if cell else list(cells)
    found: list[Change] = []
    for arm, benchmark in wanted:
        again = cell_again(study, arm, benchmark, data)
        stands = {name: cells[arm, benchmark].get(name) for name in again}
        found += differences(SAID, stands, again, f"{arm}/{benchmark}")
    return found


def cell_again(study: Path, arm: str, column: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, standard error and n of one cell out of its scores, as `chord tabulate` makes them for the table `data`."""
    benchmark, _, category = column.partition("/")
    scored = [read_scores(table.scores_path(study, arm, seed, benchmark), benchmark) for seed in data["seeds"]]
    of = data["categories"][category] if category else None
    return table.numbers(scored, "tokens" if data["unit"] == "tokens" else "right", of)


def claims_differences(path: Path, study: Path, project: Project) -> list[Change] | None:
    """What in the verdicts does not follow from results by the rules of config/; None if its artefacts are gone."""
    data = read_json(path, "verdicts that chord judge wrote", "judge again")
    if not set(data["artefacts"]) <= project.artefacts.keys():
        return None
    chosen = {"seeds": tuple(data["seeds"]), "artefacts": tuple(data["artefacts"])}
    same = project.model_copy(update={"choice": project.choice.model_copy(update=chosen)})
    return differences(SAID, _by_id(data["claims"]), _by_id(claims.as_data(same, study)["claims"]))


def figure_differences(path: Path, study: Path, project: Project) -> list[Change] | None:
    """What in a figure does not follow from its metrics; None where config/ no longer has its arms."""
    data = read_json(path, "a figure that chord plot wrote", "plot again")
    if isinstance(drawn := project.artefacts.get(data["artefact"]), Scheme):
        return differences(SAID, data["rollouts"], figures.scheme_data(project, data["artefact"], drawn)["rollouts"])
    arms = [curve["arm"] for panel in data["panels"] for curve in panel["curves"]]
    arms += [arm for panel in data["panels"] for arm in panel["arms_without_values"]]
    if not set(arms) <= project.arms.keys():
        return None
    panels = tuple(
        Panel(metric=panel["metric"], label="", smooth_steps=panel["smoothing"]["points"]) for panel in data["panels"]
    )
    x: Any = next(name for name, key in figures.X_KEYS.items() if key == data["x"]["key"])
    kept = tuple(dict.fromkeys(arms))
    figure = Figure(kind="figure", title="", arms=kept, x=x, panels=panels, paper=Paper(model=""))
    same = _with_seeds(project, data["seeds"])
    made = figures.as_data(same, data["artefact"], figure, figures.gather(same, figure, study))
    return differences(SAID, _points(data), _points(made))


def told(found: list[Change]) -> str:
    """The first few differences as a sentence: what stands there, and what the inputs give."""
    parts = [f"{one.where} is {one.old}, its inputs give {one.new}" for one in found[:SHOWN]]
    return "; ".join(parts) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def complaint(check: Callable[[], list[Change] | None]) -> str | None:
    """What a check has to say: differences, or why it could not be made; None where all follows."""
    try:
        found = check()
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        return f"found something else than its verb writes ({type(error).__name__}: {error})"
    return told(found) if found else None


def _by_id(found: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("verdict", "difference", "se", "interval", "margin", "p", "p_corrected", "seeds_needed")
    return {claim["id"]: {name: claim[name] for name in kept} for claim in found}


def _points(data: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of a figure by metric and arm."""
    kept = ("x", "mean", "low", "high", "by_seed")
    return {
        panel["metric"]: {curve["arm"]: {name: curve[name] for name in kept} for curve in panel["curves"]}
        for panel in data["panels"]
    }


def _with_seeds(project: Project, seeds: list[int]) -> Project:
    return project.model_copy(update={"choice": project.choice.model_copy(update={"seeds": tuple(seeds)})})


def recomputed(check: Check, project: Project | None, path: Path, cell: tuple[str, str] | None) -> Iterator[Finding]:
    """What the numbers in a file say that its inputs do not give; asked only where these are what its maker read."""
    maker, study = check.lineage.makers.get(path), check.lineage.study
    if maker is None or path.suffix != ".json" or check.changed_inputs(maker):
        return
    verb, shown = maker.manifest.verb, check.lineage.shown(path)
    needs_project = {"chord plot": "drawn", "chord judge": "judged"}
    if project is None and verb in needs_project:
        found = f"not {needs_project[verb]} again: there is no config/ beside results/"
        yield Finding(Status.NOT_JUDGED, shown, found, "copy config/ too")
        return
    checks: dict[str, Callable[[], list[Change] | None]] = {
        "chord score": lambda: score_differences(path),
        "chord tabulate": lambda: table_differences(path, study, cell),
        "chord plot": lambda: figure_differences(path, study, project) if project else None,
        "chord judge": lambda: claims_differences(path, study, project) if project else None,
    }
    if verb in checks and (reason := complaint(checks[verb])):
        yield Finding(Status.ALTERED, shown, reason, f"snakemake --cores 2 --force {shown}")

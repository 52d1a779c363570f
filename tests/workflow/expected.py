"""Which files of study demo, with one seed, an edit should make again: worked out from the YAML by code of its own."""

from collections.abc import Callable, Iterable
from typing import Any

import yaml

from tests.projects import ROOT


def read(file: str) -> Any:
    return yaml.safe_load((ROOT / "config" / file).read_text(encoding="utf-8"))


ARMS = read("arms.yaml")
SHOWS = {name: read(f"experiments/{name}.yaml")["arms"] for name in read("config.yaml")["artefacts"]}
IN_TABLE = SHOWS["table1"]
FIGURES = [name for name in SHOWS if name != "table1"]
BENCHMARKS = ("in-distribution", "harder", "other-skill")
TABLE = {"table1.json", "table1.md", "table1.html"}
PAGE = {"report.html"}
CLAIMS = {f"claims.{ending}" for ending in ("json", "md", "html", "svg", "png")}
NUMBERS = TABLE | PAGE | CLAIMS  # whatever shows scores
RULES = [one["rule"] for one in read("claims.yaml")["claims"]]
JUDGED = {arm for rule in RULES if "arm" in rule for arm in (rule["arm"], *rule.get("against", ()))}
BASE = {f"models/base/{file}" for file in ("model", "metrics.jsonl", "timing.jsonl", "validation.jsonl")}


def recipe(arm: str) -> dict[str, Any]:
    return ARMS[arm].get("recipe") or {}


def lineage(arm: str) -> set[str]:
    """The arm, what it starts from or chooses between, and so on; without the base model."""
    starts = ARMS[arm].get("choose") or [recipe(arm)["init"]] if "same_as" not in ARMS[arm] else []
    return {arm}.union(*(lineage(start) for start in starts if start != "base"))


BUILT = set().union(*(lineage(arm) for arms in SHOWS.values() for arm in arms)) - {"original"}


def of_built(is_one: Callable[[str], Any]) -> set[str]:
    """The built arms for which this holds."""
    return {arm for arm in BUILT if is_one(arm)}


def grows_from(arms: set[str]) -> set[str]:
    """All built arms that are among these, or start from one of them."""
    return of_built(lambda arm: lineage(arm) & arms)


def has_mu(arm: str, value: float) -> bool:
    return recipe(arm).get("mu") == {"schedule": "constant", "value": value}


def imitates_only(arm: str) -> bool:
    return has_mu(arm, 1.0)


def samples(arm: str) -> bool:
    return bool(recipe(arm)) and not imitates_only(arm)


def reads_aligned_traces(arm: str) -> bool:
    return recipe(arm).get("traces") == "aligned"


def reads_expert_traces(arm: str) -> bool:
    return bool(recipe(arm)) and not has_mu(arm, 0.0) and not reads_aligned_traces(arm)


def shown(arms: set[str]) -> set[str]:
    """The page, every artefact that shows one of the arms, and the claims where they speak of one."""
    claims = CLAIMS if arms & JUDGED else set()
    return PAGE.union(claims, *(artefact(name) for name in SHOWS if arms & set(SHOWS[name])))


def artefact(*names: str) -> set[str]:
    endings = {"table1": ("json", "md", "html")}
    return {f"{name}.{ending}" for name in names for ending in endings.get(name, ("json", "svg", "png"))}


def run_files(arms: Iterable[str], *names: str) -> set[str]:
    return {f"runs/{arm}/seed-1/{name}" for arm in arms for name in names}


def described(*arms: str) -> set[str]:
    return run_files(arms, "run.json")


def trained(arm: str) -> set[str]:
    """What training the arm, or choosing it, makes."""
    if "choose" in ARMS[arm]:
        return run_files([arm], "model", "metrics.jsonl", "validation.json", "chosen.json")
    more = ("validation.jsonl", "candidates") if imitates_only(arm) else ()
    return run_files([arm], "model", "metrics.jsonl", "timing.jsonl", "tensorboard", *more)


def graded(arms: set[str]) -> set[str]:
    """The validation of those arms that only imitate and that a choice or a figure needs."""
    needed = {other for key in BUILT for other in ARMS[key].get("choose", ())}.union(*(SHOWS[name] for name in FIGURES))
    return run_files(filter(imitates_only, arms & needed), "validation.json")


def answered(arms: Iterable[str], *benchmarks: str) -> set[str]:
    """Answers to these benchmarks, or all, and no scores."""
    return run_files(arms, *(f"eval/{benchmark}/answers.jsonl" for benchmark in benchmarks or BENCHMARKS))


def scored(arms: Iterable[str], *benchmarks: str) -> set[str]:
    return run_files(arms, *(f"eval/{benchmark}/scores.json" for benchmark in benchmarks or BENCHMARKS))


def evaluated(arms: Iterable[str], *benchmarks: str) -> set[str]:
    """Answers and scores of those arms that the table shows."""
    in_table = [arm for arm in arms if arm in IN_TABLE]
    return answered(in_table, *benchmarks) | scored(in_table, *benchmarks)


def made_again(arms: set[str]) -> set[str]:
    """Models, answers and scores of the arms, and whatever shows them; their run.json stay."""
    return shown(arms) | evaluated(arms) | graded(arms) | set().union(*map(trained, arms))


def data(kind: str, *names: str) -> set[str]:
    """Sets of problems or traces with their counts; `kind` is benchmarks, problems or traces."""
    return {f"data/{kind}/{name}.{ending}" for name in names for ending in ("jsonl", "json")}

"""Which files of study demo, with one seed, an edit should make again: worked out from the YAML by code of its own."""

import yaml

from tests.workflow.tree import ROOT

CONFIG = ROOT / "config"
ARMS = yaml.safe_load((CONFIG / "arms.yaml").read_text(encoding="utf-8"))
SHOWS = {
    name: yaml.safe_load((CONFIG / f"experiments/{name}.yaml").read_text(encoding="utf-8"))["arms"]
    for name in yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))["artefacts"]
}
IN_TABLE = SHOWS["table1"]
FIGURES = [name for name in SHOWS if name != "table1"]
BENCHMARKS = ("in-distribution", "harder", "other-skill")
TABLE = {"table1.json", "table1.md", "table1.html"}
PAGE = {"report.html"}
CLAIMS = {"claims.json", "claims.md", "claims.html"}
RULES = [one["rule"] for one in yaml.safe_load((CONFIG / "claims.yaml").read_text(encoding="utf-8"))["claims"]]
JUDGED = {arm for rule in RULES if "arm" in rule for arm in (rule["arm"], *rule.get("against", ()))}
BASE = {f"models/base/{file}" for file in ("model", "metrics.jsonl", "timing.jsonl", "validation.jsonl")}


def recipe(arm: str) -> dict:
    return ARMS[arm].get("recipe") or {}


def starts(arm: str) -> list[str]:
    """What the arm starts from or chooses between."""
    return ARMS[arm].get("choose") or [recipe(arm)["init"]] if "same_as" not in ARMS[arm] else []


def lineage(arm: str) -> set[str]:
    """The arm, what it starts from, and so on; the base model is left out."""
    return {arm}.union(*(lineage(start) for start in starts(arm) if start != "base"))


BUILT = set().union(*(lineage(arm) for arms in SHOWS.values() for arm in arms)) - {"original"}


def grows_from(arms: set[str]) -> set[str]:
    """All built arms that are among these, or start from one of them."""
    return {arm for arm in BUILT if lineage(arm) & arms}


def imitates_only(arm: str) -> bool:
    return recipe(arm).get("mu") == {"schedule": "constant", "value": 1.0}


def samples(arm: str) -> bool:
    return bool(recipe(arm)) and not imitates_only(arm)


def reads_expert_traces(arm: str) -> bool:
    pure_rl = recipe(arm).get("mu") == {"schedule": "constant", "value": 0.0}
    return bool(recipe(arm)) and not pure_rl and recipe(arm).get("traces") != "aligned"


def shown(arms: set[str]) -> set[str]:
    """The page, every artefact that shows one of the arms, and the claims where they speak of one."""
    claims = CLAIMS if arms & JUDGED else set()
    return PAGE.union(claims, *(artefact(name) for name in SHOWS if arms & set(SHOWS[name])))


def artefact(*names: str) -> set[str]:
    endings = {"table1": ("json", "md", "html")}
    return {f"{name}.{ending}" for name in names for ending in endings.get(name, ("json", "svg", "png"))}


def run_files(arm: str, *names: str) -> set[str]:
    return {f"runs/{arm}/seed-1/{name}" for name in names}


def described(arm: str) -> set[str]:
    return run_files(arm, "run.json")


def trained(arm: str) -> set[str]:
    """What training the arm, or choosing it, makes."""
    if "choose" in ARMS[arm]:
        return run_files(arm, "model", "metrics.jsonl", "validation.json", "chosen.json")
    more = ("validation.jsonl", "candidates") if imitates_only(arm) else ()
    return run_files(arm, "model", "metrics.jsonl", "timing.jsonl", "tensorboard", *more)


def graded(arm: str) -> set[str]:
    """The validation of an arm that only imitates, where a choice or a figure needs it."""
    needed = {other for key in BUILT for other in ARMS[key].get("choose", ())}.union(*(SHOWS[name] for name in FIGURES))
    return run_files(arm, "validation.json") if imitates_only(arm) and arm in needed else set()


def answered(arm: str, *benchmarks: str) -> set[str]:
    return run_files(arm, *(f"eval/{benchmark}/answers.jsonl" for benchmark in benchmarks or BENCHMARKS))


def scored(arm: str, *benchmarks: str) -> set[str]:
    return run_files(arm, *(f"eval/{benchmark}/scores.json" for benchmark in benchmarks or BENCHMARKS))


def evaluated(arms: set[str]) -> set[str]:
    return set().union(*(answered(arm) | scored(arm) for arm in arms if arm in IN_TABLE))


def made_again(arms: set[str]) -> set[str]:
    """Models, answers and scores of the arms, and whatever shows them; their run.json stay."""
    return shown(arms) | evaluated(arms) | set().union(*(trained(arm) | graded(arm) for arm in arms))


def problems(*names: str) -> set[str]:
    return {f"data/problems/{name}.{ending}" for name in names for ending in ("jsonl", "json")}


def benchmark_problems(*names: str) -> set[str]:
    return {f"data/benchmarks/{name}.{ending}" for name in names for ending in ("jsonl", "json")}


def traces(*names: str) -> set[str]:
    return {f"data/traces/{name}.{ending}" for name in names for ending in ("jsonl", "json")}

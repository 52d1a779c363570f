"""What steps left behind, as findings read it: scores, metrics, problems by category, the course of a training.

Every reader raises UserError for a missing, empty, cut or foreign file: the file, what was found, what was expected,
what to do.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from chord.config.paper import WHERE
from chord.errors import UserError
from chord.findings.statistics import moving_mean
from chord.provenance.manifest import Manifest, read_manifest
from chord.records import Outcome, Problem, read_lines, split_lines
from chord.settings import Raw

if TYPE_CHECKING:
    from chord.config.project import Project

Array = NDArray[np.float64]
OUTCOMES = {outcome.value for outcome in Outcome}


def read_json(path: Path, what: str, remedy: str, needed: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in the file, with all keys that are `needed`. Messages end in: expected WHAT; REMEDY."""
    text = _text(path, what, remedy)
    try:
        value: Raw = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise UserError(f"{path}: found text that is not whole JSON ({error}), expected {what}; {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found a JSON {type(value).__name__}, expected {what}; {remedy}")
    if lacking := set(needed) - value.keys():
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, expected {what}; {remedy}")
    return value


def _text(path: Path, what: str, remedy: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected {what}; {remedy}") from None
    except (UnicodeDecodeError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: found something other than text ({error}), expected {what}; {remedy}") from None
    if not text.strip():
        raise UserError(f"{path}: found an empty file, expected {what}; {remedy}")
    return text


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


# --- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """The scores of one model on one benchmark, problem by problem (P of them)."""

    path: Path
    version: str
    metric: str
    problems: tuple[str, ...]
    samples: int
    right: Array  # (P,) share of the samples that are right
    response_tokens: Array | None  # (P,) mean length of the samples; None where the file has none

    def values(self, measure: str) -> Array:
        """Shares `right`, or with any other measure lengths. Raises UserError for scores without lengths."""
        if measure == "right":
            return self.right
        if self.response_tokens is None:
            raise UserError(f"{self.path}: found no lengths of the answers, expected response_tokens; score again")
        return self.response_tokens


def scores_path(results: Path, arm: str, seed: int, benchmark: str) -> Path:
    """Where the scores of one model on one benchmark are."""
    return results / WHERE["scores"].format(arm=arm, seed=seed, benchmark=benchmark)


def read_scores(path: Path, benchmark: str) -> Scored:
    """The scores in the file; refused if they are of another benchmark or contradict themselves."""
    what, remedy = f"the scores of benchmark '{benchmark}'", "delete it and score again"
    needed = ("benchmark", "version", "metric", "mean", "problems")
    raw = read_json(path, what, remedy if path.exists() else "build it with snakemake", needed)
    if raw["benchmark"] != benchmark:
        raise UserError(f"{path}: found the scores of benchmark '{raw['benchmark']}', expected {what}; {remedy}")
    rows = raw["problems"]
    if not _are_scored(rows):
        expected = f"two problems or more, each with an id and outcomes out of {', '.join(sorted(OUTCOMES))}"
        raise UserError(f"{path}: found other things under 'problems', expected {expected}; {remedy}")
    rows.sort(key=lambda row: row["id"])
    ids = tuple(row["id"] for row in rows)
    samples = len(rows[0]["outcomes"])
    if len(set(ids)) != len(ids) or any(len(row["outcomes"]) != samples for row in rows):
        raise UserError(f"{path}: found problems twice or with unequal numbers of samples, expected {what}; {remedy}")
    right = np.array([[outcome == Outcome.RIGHT.value for outcome in row["outcomes"]] for row in rows], dtype=float)
    if not isinstance(raw["mean"], int | float) or not math.isclose(right.mean(), raw["mean"], abs_tol=1e-6):
        raise UserError(f"{path}: found mean {raw['mean']}, but its outcomes give {right.mean():g}; {remedy}")
    lengths: list[Raw] = [row.get("response_tokens") for row in rows]
    whole = all(isinstance(one, list) and len(one) == samples for one in lengths)
    tokens = np.array(lengths, dtype=float).mean(axis=1) if whole else None
    return Scored(path, str(raw["version"]), str(raw["metric"]), ids, samples, right.mean(axis=1), tokens)


def _are_scored(rows: Raw) -> TypeGuard[list[dict[str, Any]]]:
    """Whether `rows` are two or more of {"id": text, "outcomes": [known outcomes, at least one]}."""
    return isinstance(rows, list) and len(rows) > 1 and all(map(_is_scored, rows))


def _is_scored(row: Raw) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return False
    names = row.get("outcomes")
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) and name in OUTCOMES for name in names)


def read_alike(
    results: Path, arms: Sequence[str], seeds: Sequence[int], benchmark: str, version: str | None
) -> dict[str, list[Scored]]:
    """By arm, the scores of all seeds on a benchmark. Raises UserError for scores that cannot be compared.

    All must be of this version of the benchmark (None: any, but the same) and of the same problems and samples.
    """
    found = {
        arm: [read_scores(scores_path(results, arm, seed, benchmark), benchmark) for seed in seeds] for arm in arms
    }
    first, remedy = found[arms[0]][0], "score again so that all scores are of one benchmark"
    wanted = {"version": version or first.version, "metric": first.metric, "samples": first.samples}
    for other in (scored for group in found.values() for scored in group):
        has = {"version": other.version, "metric": other.metric, "samples": other.samples}
        for name, expected in wanted.items():
            if has[name] != expected:
                place = "config/benchmarks" if name == "version" and version else first.path
                raise UserError(f"{other.path}: found {name} {has[name]}, expected {expected} as in {place}; {remedy}")
        if strange := sorted(set(first.problems) ^ set(other.problems)):
            raise UserError(
                f"{other.path}: found other problems ({len(strange)} differ, such as '{strange[0]}'), expected those of"
                f" {first.path}; {remedy}"
            )
    return found


# --- metrics -------------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in order of their steps, at least one."""
    what, remedy = "metrics of a training run, one JSON object a line", "build it with snakemake"
    text = _text(path, what, remedy)
    if not text.endswith("\n"):
        raise UserError(f"{path}: found a last line without end, so the file was cut off; delete it and train again")
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(split_lines(text), start=1):
        try:
            value: Raw = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: found text that is not JSON ({error}), expected {what}") from None
        if not _has_step(value):
            raise UserError(f"{path}, line {number}: found no whole number under 'step', expected {what}")
        if lines and value["step"] <= lines[-1]["step"]:
            found = f"step {value['step']} after {lines[-1]['step']}"
            raise UserError(f"{path}, line {number}: found {found}, expected rising steps; train the arm again")
        lines.append(value)
    return lines


def read_validation(path: Path) -> dict[int, dict[str, Any]]:
    """What stands in a validation.json, by step."""
    what = "what chord validate writes"
    rows: Raw = read_json(path, what, "build it with snakemake").get("steps")
    found = [row for row in rows if _has_step(row)] if isinstance(rows, list) else []
    if found != rows:
        raise UserError(f"{path}: found no results by step, expected {what}; delete it and validate again")
    return {row["step"]: row for row in found}


def _has_step(value: Raw) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and isinstance(value.get("step"), int)


# --- data: categories of problems, lengths of traces ---------------------------------------------

FEWEST = 2  # problems of a category: one alone has no standard error


def divided(file: Path, categories: str) -> dict[str, list[str]]:
    """The ids of the problems in the file by category, categories in their natural order.

    `categories` is `carries`, `letters`, or a key of `Problem.source`. Categories of fewer than two problems stand
    together as `others`, and are left out if there is one such problem. Raises UserError for problems without the fact.
    """
    groups: dict[str, list[str]] = {}
    for problem in read_lines(file, Problem):
        worked_out = WORKED_OUT.get(categories)
        name = worked_out(problem) if worked_out else problem.source.get(categories)
        if name is None:
            expected = f"expected problems that have `{categories}`; change benchmarks.NAME.categories of the study"
            raise UserError(f"{file}: found problem '{problem.id}' without it, {expected}")
        groups.setdefault(str(name), []).append(problem.id)
    kept = {name: groups[name] for name in sorted(groups, key=_natural) if len(groups[name]) >= FEWEST}
    others = [problem for name, ids in groups.items() if name not in kept for problem in ids]
    return kept | ({"others": others} if len(others) >= FEWEST else {})


def carries(problem: Problem) -> str | None:
    """How often something is carried when the terms of a sum are added, place by place, from the right."""
    expression = str(problem.source.get("expression", ""))
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)+", expression):
        return None
    count = carry = 0
    for digits in zip_longest(*(reversed(term) for term in expression.split("+")), fillvalue="0"):
        carry = (sum(map(int, digits)) + carry) // 10
        count += carry > 0
    return f"{count} {'carry' if count == 1 else 'carries'}"


def letters(problem: Problem) -> str | None:
    """How many letters the word has."""
    word = problem.source.get("word")
    return f"{len(word)} letters" if isinstance(word, str) else None


WORKED_OUT: dict[str, Callable[[Problem], str | None]] = {"carries": carries, "letters": letters}


def _natural(name: str) -> tuple[int, str]:
    """Numbers in front by their size."""
    number = re.match(r"[0-9]+", name)
    return (int(number[0]) if number else 0, name)


def expert_length(counts: Sequence[Path]) -> dict[str, Any]:
    """How long the expert's traces are, out of the counts that `chord demonstrate` wrote: one file, or one a seed."""
    needed = ("writer", "kept", "response_tokens", "length_measured_in")
    said = ("counts that chord demonstrate wrote", "build it with snakemake", needed)
    found = [read_json(path, *said) for path in counts]
    traces = sum(one["kept"] for one in found)
    mean = sum(one["kept"] * one["response_tokens"]["mean"] for one in found) / traces
    told = {"label": found[0]["writer"], "mean": mean, "traces": traces}
    return told | {"measured_in": found[0]["length_measured_in"]}


# --- trainings: what ran, where and for how long -------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One training run as its manifest and its timings tell it; nothing is known where there is no manifest."""

    name: str
    folder: Path
    manifest: Manifest | None
    timing: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """The last step that was timed."""
        return int(self.timing[-1]["step"]) if self.timing else 0

    @property
    def seconds(self) -> float:
        """How long it took: the timed steps, also those before a restart; the last attempt if that is longer."""
        return max(self.manifest.seconds if self.manifest else 0.0, sum(self.phases.values()))

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, over the whole run."""
        total: dict[str, float] = {}
        for line in self.timing:
            for phase, seconds in (line.get("seconds") or dict[str, float]()).items():
                total[phase] = total.get(phase, 0.0) + float(seconds or 0)
        return total


def read_training(name: str, folder: Path) -> Training:
    """The run in the folder; damaged records are refused, missing ones leave it unknown."""
    manifest, timing = folder / "train.manifest.json", folder / "timing.jsonl"
    made = read_manifest(manifest) if manifest.exists() else None
    return Training(name, folder, made, read_metrics(timing) if timing.exists() else [])


def device(manifest: Manifest) -> str:
    """What computed: the device that training recorded, else the processor."""
    found = manifest.extra.get("device")
    if isinstance(found, Mapping):
        found = found.get("name") or found.get("type")
    processor = f"{manifest.machine.get('cpu', 'unknown processor')}, {manifest.machine.get('cores', '?')} cores"
    return f"{found} ({processor})" if found and found != "cpu" else processor


def commit(manifest: Manifest) -> str:
    """The commit that was run, and whether the tree differed from it."""
    if manifest.git.commit is None:
        return f"unknown ({manifest.git.why})"
    return manifest.git.commit[:12] + (" with uncommitted changes" if manifest.git.dirty else "")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def shared(values: Iterable[str]) -> str:
    """All different values, in the order they come."""
    return "; ".join(dict.fromkeys(values))


# --- curves --------------------------------------------------------------------------------------

Runs = dict[Path, list[dict[str, Any]]]  # by metrics.jsonl, one a seed, its lines


class Curve(NamedTuple):
    """One metric of one arm along training; T points, S seeds."""

    x: Array  # (T,)
    by_seed: Array  # (S, T)


def curve_of(runs: Runs, metric: str, x_key: str = "step", points: int = 1) -> Curve | None:
    """One metric of one arm, smoothed over so many points; None if it is null at every step.

    Raises UserError for seeds that do not have their points at the same places.
    """
    series = {path: _series(path, lines, x_key, metric) for path, lines in runs.items()}
    (first, (x, _)), *others = series.items()
    for path, (other, _) in others:
        if other != x:
            raise UserError(
                f"{path}: found {len(other)} values of '{metric}' at other places than the {len(x)} of {first},"
                " expected seeds that differ in nothing but the seed; train the arm again"
            )
    values = np.array([ys for _, ys in series.values()], dtype=float)
    return Curve(np.array(x, dtype=float), moving_mean(values, points)) if x else None


def window(smooth_steps: int) -> int:
    """Points in the moving mean: `smooth_steps`, or one more where that is even and so has no center."""
    return smooth_steps // 2 * 2 + 1


def files_of(project: "Project", results: Path, arm: str, seed: int) -> list[Path]:
    """The metrics of one run; for an arm whose validation was graded later also validation.json."""
    folder = results / "runs" / arm / f"seed-{seed}"
    later = project.arms[arm].only_imitates or project.arms[arm].choose
    return [folder / "metrics.jsonl", *([folder / "validation.json"] if later else [])]


def runs_of(project: "Project", results: Path, arm: str) -> Runs:
    """The metrics of all seeds of an arm, with what chord validate found of the same steps."""
    if project.arms[arm].same_as:
        raise UserError(f"config/experiments: found arm '{arm}', which is not trained, expected arms that have a curve")
    runs: Runs = {}
    for seed in project.seeds:
        metrics, *later = files_of(project, results, arm, seed)
        lines = read_metrics(metrics)
        for validation in later:
            found = read_validation(validation)
            steps = [line["step"] for line in lines if line.get("validation") is not None]
            if steps != list(found):
                raise UserError(
                    f"{validation}: found results after steps {list(found)}, expected the {len(steps)} steps that the"
                    " metrics beside it name; delete it and validate again"
                )
            for line in lines:
                line["validation"] = found.get(line["step"])
        runs[metrics] = lines
    return runs


def _series(path: Path, lines: list[dict[str, Any]], x_key: str, metric: str) -> tuple[list[float], list[float]]:
    """Where the metric has a value, and the value; steps at which it is null are left out."""
    xs, ys, keys = list[float](), list[float](), metric.split(".")
    if not any(keys[0] in line for line in lines):
        raise UserError(f"{path}: found no metric '{metric}', expected one of: {', '.join(sorted(lines[-1]))}")
    for line in lines:
        value: Raw = line
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        x = line.get(x_key)
        x = 0.0 if x is None and line["step"] == 0 else x
        if not _is_number(value) or not _is_number(x):
            found = f"'{metric}' {value!r} at {x_key} {x!r} in step {line['step']}"
            raise UserError(f"{path}: found {found}, expected numbers; train the arm again")
        xs.append(float(x))
        ys.append(float(value))
    return xs, ys


def _is_number(value: Raw) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

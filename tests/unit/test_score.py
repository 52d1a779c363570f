"""Scoring stored answers through lm-eval, checked against sums worked out by hand."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.errors import RecordError
from chord.evaluation import score
from chord.evaluation.benchmarks import measure, read_benchmark
from chord.evaluation.lm_eval_models import StoredAnswers
from chord.records import Answer, Problem, write_lines
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
STUDY = load(ROOT, "demo").study
PROBLEMS = [Problem(f"p-{n}", "sum-3", f"{n}+100", str(n + 100), {}) for n in (2, 1)]
TEXTS = {"p-1": ["=101", ">1=101", "=102", "101"], "p-2": ["=102", "=", "=12", "=1002"]}  # right: p-1 two, p-2 one


def answers(texts: dict[str, list[str]], benchmark: str = "harder") -> list[Answer]:
    prompts = {problem.id: problem.prompt for problem in PROBLEMS}
    return [
        Answer(benchmark, problem, sample, prompts[problem], text, "stop", len(text) + 1, 7)
        for problem, row in texts.items()
        for sample, text in enumerate(row)
    ]


class Place:
    """A folder with stored answers and places for scores: of benchmark `name`, beside those of others."""

    def __init__(self, folder: Path, given: list[Answer], name: str = "harder") -> None:
        self.name, self.folder = name, folder / name
        self.answers, self.scores = self.folder / "answers.jsonl", self.folder / "scores.json"
        self.manifest, self.problems = self.folder / "scores.manifest.json", folder / "problems.jsonl"
        self.folder.mkdir(parents=True)
        self.answers.write_text(write_lines(given))
        self.problems.write_text(write_lines(PROBLEMS))

    def arguments(self, *siblings: "Place") -> list[str]:
        given = {"study": "demo", "root": ROOT, "benchmark": self.name, "answers": self.answers}
        given |= {"problems": self.problems, "scores": self.scores, "manifest": self.manifest}
        ahead = [f"--ahead={one.name}={one.answers}={one.problems}={one.scores}" for one in siblings]
        return [*(f"--{name}={value}" for name, value in given.items()), *ahead]

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Scores a place, with siblings ahead; what was written."""

    def scored(place: Place, *siblings: Place) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["chord score", *place.arguments(*siblings)])
        score.main()
        return json.loads(place.scores.read_text())

    return scored


def test_two_problems_are_scored_as_by_hand_in_whatever_order_their_answers_stand(tmp_path: Path, run) -> None:
    given = answers(TEXTS)
    given[2] = dataclasses.replace(given[2], finish="length", text="=10", response_tokens=96)
    scores = run(Place(tmp_path / "a", given))
    assert scores["mean"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    # std of (0.5, 0.25) with n - 1: 0.25 / sqrt(2); over sqrt(2 problems): 0.125
    assert scores["se"] == pytest.approx(0.125, abs=1e-12)
    assert (scores["metric"], scores["n_problems"], scores["samples_per_problem"]) == ("avg@4", 2, 4)
    assert scores["pass_at_k"] == 1.0
    assert scores["problems"][0]["id"] == "p-1"
    assert scores["problems"][0]["outcomes"] == ["right", "right", "too_long", "unparsable"]
    assert scores["problems"][1]["outcomes"][0] == "right"
    assert scores["outcomes"]["right"] == 3 and sum(scores["outcomes"].values()) == 8
    tokens = [5, 7, 96, 4, 5, 2, 4, 6]  # letters + end token; the cut one as recorded
    assert scores["mean_response_tokens"] == pytest.approx(sum(tokens) / 8)
    assert scores["lm_eval"]["results"]["avg@4,samples"] == pytest.approx(scores["mean"])
    assert "alias" not in scores["lm_eval"]["results"]  # what the task is called in lists is no part of its scores
    assert scores["lm_eval"]["version"] == "0.4.13" and len(scores["lm_eval"]["task_hash"]) == 64
    assert run(Place(tmp_path / "b", given[::-1])) == scores


def test_the_task_hash_tells_other_problems_and_other_grading_apart() -> None:
    benchmark = read_benchmark(ROOT, STUDY, "harder")
    others = [dataclasses.replace(problem, answer="7") for problem in PROBLEMS]
    bare = STUDY.grading.model_copy(update={"mark": ":"})

    def task_hash(problems: list[Problem], grading: Any) -> str:
        results = measure(StoredAnswers(answers(TEXTS)), benchmark, problems, grading.form)
        return score.task_hash(results["samples"]["harder"])

    same = task_hash(PROBLEMS, STUDY.grading)
    assert same == task_hash(PROBLEMS, STUDY.grading)
    assert len({same, task_hash(others, STUDY.grading), task_hash(PROBLEMS, bare)}) == 3


def test_one_problem_has_no_standard_error(tmp_path: Path, run) -> None:
    place = Place(tmp_path, answers({"p-1": TEXTS["p-1"]}))
    place.problems.write_text(write_lines(PROBLEMS[1:]))
    scores = run(place)
    assert scores["se"] is None and scores["mean"] == 0.5


@pytest.mark.parametrize(
    "number", ["avg@4,samples", "pass@4,samples", "avg@4_stderr,samples", "sample_len", "outcomes,samples"]
)
def test_numbers_that_differ_from_lm_evals_own_are_refused(number: str) -> None:
    benchmark = read_benchmark(ROOT, STUDY, "harder")
    results = measure(StoredAnswers(answers(TEXTS)), benchmark, PROBLEMS, STUDY.grading.form)
    rows = [
        {"id": s["doc"]["id"], "outcomes": s["outcomes"], "response_tokens": [1] * 4}
        for s in results["samples"]["harder"]
    ]
    score.summarize(benchmark, rows, results)
    value = results["results"]["harder"][number]
    results["results"]["harder"][number] = value | {"right": 99} if isinstance(value, dict) else value + 0.001
    with pytest.raises(RuntimeError, match="lm-eval says"):
        score.summarize(benchmark, rows, results)


def changed(index: int, **fields: Any) -> list[Answer]:
    given = answers(TEXTS)
    return [dataclasses.replace(answer, **fields) if n == index else answer for n, answer in enumerate(given)]


REFUSED = {
    "line 1: found sample 0 of problem 'p-1' of 'in-distribution'": changed(0, benchmark="in-distribution"),
    "line 2: found sample 1 of problem 'p-9' of 'harder'": changed(1, problem="p-9"),
    "line 2: found an answer to '1+1', expected the prompt of problem 'p-1'": changed(1, prompt="1+1"),
    "line 2: found sample 0 of problem 'p-1'": changed(1, sample=0),  # doubled
    "line 4: found sample 4 of problem 'p-1' of 'harder', expected samples 0 to 3 of": changed(3, sample=4),
    "found no sample 3 of problem 'p-2' (1 missing in all)": answers(TEXTS)[:-1],
    "line 1: found 5 tokens that ended by 'eos'": changed(0, finish="eos"),
    "line 1: found -1 tokens": changed(0, response_tokens=-1),
}


@pytest.mark.parametrize("said", REFUSED)
def test_answers_that_do_not_fit_are_refused_with_file_and_line(said: str, tmp_path: Path) -> None:
    benchmark = read_benchmark(ROOT, STUDY, "harder")
    file = tmp_path / "answers.jsonl"
    with pytest.raises(RecordError) as error:
        score.check_answers(file, REFUSED[said], PROBLEMS, benchmark)
    assert str(error.value).startswith(f"{file}") and said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_of_answers_ends_in_one_line_and_no_output(tmp_path: Path) -> None:
    place = Place(tmp_path, answers(TEXTS))
    place.answers.unlink()
    result = warm.run([sys.executable, "-m", "chord", "score", *place.arguments()], cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr.startswith(f"chord score: {place.answers}") and result.stderr.count("\n") == 1, result.stderr
    assert not place.left()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Place, Place]:
    return Place(tmp_path, answers(TEXTS)), Place(tmp_path, answers(TEXTS, "other-skill"), "other-skill")


JOB = """
import sys
from chord.evaluation import score
score.main()
sys.exit(sorted({'torch', 'lm_eval', 'datasets', 'transformers'} & set(sys.modules)) or 0)
"""


def test_scores_made_ahead_are_the_bytes_of_scores_made_directly_and_their_job_imports_nothing_heavy(
    two: tuple[Place, Place], tmp_path: Path, run
) -> None:
    direct = Place(tmp_path / "direct", answers(TEXTS, "other-skill"), "other-skill")
    run(direct)
    own, other = two
    run(own, other)
    assert not other.scores.exists()
    result = subprocess.run([sys.executable, "-c", JOB, *other.arguments()], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert other.scores.read_bytes() == direct.scores.read_bytes()
    made_by = json.loads(other.manifest.read_text())["extra"]["made_ahead_by"]
    assert (made_by["pid"], made_by["command"][:4]) == (os.getpid(), ["python", "-m", "chord", "score"])
    assert other.left() == ["answers.jsonl", "scores.json", "scores.manifest.json"]


def test_a_sibling_without_answers_or_with_bad_ones_is_left_to_its_own_job(
    two: tuple[Place, Place], tmp_path: Path, run, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = two
    other.answers.write_text("foreign\n")
    absent = Place(tmp_path, [], "in-distribution")
    absent.answers.unlink()
    run(own, other, absent)
    assert own.manifest.exists() and not absent.left() and other.left() == ["answers.jsonl"]
    err = capsys.readouterr().err
    assert "other-skill is left to its own job" in err and "in-distribution" not in err


def test_scores_ahead_of_changed_answers_are_not_used(two: tuple[Place, Place], run) -> None:
    own, other = two
    run(own, other)
    other.answers.write_text(write_lines(answers(TEXTS | {"p-2": ["="] * 4}, "other-skill")))
    assert run(other)["mean"] == pytest.approx((0.5 + 0) / 2)

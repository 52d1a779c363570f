"""Scoring stored answers through lm-eval, checked against sums worked out by hand."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
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


def placed(folder: Path, given: list[Answer], benchmark: str = "harder") -> dict[str, Path]:
    here = folder / benchmark
    here.mkdir(parents=True, exist_ok=True)
    (here / "answers.jsonl").write_text(write_lines(given))
    (folder / "problems.jsonl").write_text(write_lines(PROBLEMS))
    return {
        "answers": here / "answers.jsonl",
        "problems": folder / "problems.jsonl",
        "scores": here / "scores.json",
        "manifest": here / "scores.manifest.json",
    }


def run(
    monkeypatch: pytest.MonkeyPatch, paths: dict[str, Path], benchmark: str = "harder", *ahead: str
) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", command(paths, benchmark, *ahead)[3:])
    score.main()
    return json.loads(paths["scores"].read_text())


def command(paths: dict[str, Path], benchmark: str = "harder", *ahead: str) -> list[str]:
    given = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    siblings = [part for text in ahead for part in ("--ahead", text)]
    study = ["--study", "demo", "--root", str(ROOT)]
    return [sys.executable, "-m", "chord", "score", *study, "--benchmark", benchmark, *given, *siblings]


def as_program(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return warm.run(arguments, cwd=ROOT, env=os.environ | environment)


def sibling(paths: dict[str, Path], benchmark: str) -> str:
    return f"{benchmark}={paths['answers']}={paths['problems']}={paths['scores']}"


def test_two_problems_are_scored_as_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = answers(TEXTS)
    given[2] = dataclasses.replace(given[2], finish="length", text="=10", response_tokens=96)
    scores = run(monkeypatch, placed(tmp_path, given))
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
    assert scores["lm_eval"]["version"] == "0.4.13" and len(scores["lm_eval"]["task_hash"]) == 64


def test_what_a_task_is_called_in_lists_is_no_part_of_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = run(monkeypatch, placed(tmp_path / "a", answers(TEXTS)))
    shutil.copytree(ROOT / "config", tmp_path / "config")
    file = tmp_path / "config/benchmarks/harder.yaml"
    file.write_text(file.read_text().replace("task: harder\n", "task: harder\ntask_alias: Hard\ntag: [sums]\n"))
    paths = placed(tmp_path / "b", answers(TEXTS))
    line = [word.replace(str(ROOT), str(tmp_path)) for word in command(paths)[3:]]
    monkeypatch.setattr("sys.argv", line)
    score.main()
    assert json.loads(paths["scores"].read_text()) == ours
    made = [json.loads((tmp_path / name / "harder/scores.manifest.json").read_text()) for name in ("a", "b")]
    assert made[0]["decided_by"] == made[1]["decided_by"]


def test_the_order_of_lines_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = run(monkeypatch, placed(tmp_path / "a", answers(TEXTS)))
    backward = run(monkeypatch, placed(tmp_path / "b", answers(TEXTS)[::-1]))
    assert forward == backward


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


def test_one_problem_has_no_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = placed(tmp_path, [answer for answer in answers(TEXTS) if answer.problem == "p-1"])
    paths["problems"].write_text(write_lines(PROBLEMS[1:]))
    scores = run(monkeypatch, paths)
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


@pytest.mark.parametrize("content", [None, "", '{"a": 1}\n', '{"benchmark": "harder"', "\x00\xff"])
def test_a_file_that_holds_no_answers_ends_in_one_line_and_no_output(content: str | None, tmp_path: Path) -> None:
    paths = placed(tmp_path, answers(TEXTS))
    paths["answers"].unlink()
    if content is not None:
        paths["answers"].write_bytes(content.encode("latin-1"))
    result = as_program(command(paths))
    assert result.returncode == 2
    assert result.stderr.startswith(f"chord score: {paths['answers']}") and result.stderr.count("\n") == 1, (
        result.stderr
    )
    assert {path.name for path in paths["scores"].parent.iterdir()} <= {"answers.jsonl"}


def two(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    return placed(tmp_path, answers(TEXTS)), placed(tmp_path, answers(TEXTS, "other-skill"), "other-skill")


def test_scores_made_ahead_are_the_bytes_of_scores_made_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two(tmp_path / "direct")
    run(monkeypatch, other, "other-skill")
    direct = other["scores"].read_bytes()
    own, other = two(tmp_path / "ahead")
    run(monkeypatch, own, "harder", sibling(other, "other-skill"))
    assert not other["scores"].exists()
    monkeypatch.setattr("chord.evaluation.score.scores_text", None)  # nothing may be scored any more
    run(monkeypatch, other, "other-skill")
    assert other["scores"].read_bytes() == direct
    made_by = json.loads(other["manifest"].read_text())["extra"]["made_ahead_by"]
    assert (made_by["pid"], made_by["command"][:4]) == (os.getpid(), ["python", "-m", "chord", "score"])
    left = sorted(path.name for path in other["scores"].parent.iterdir())
    assert left == ["answers.jsonl", "scores.json", "scores.manifest.json"]


def test_a_sibling_without_answers_or_with_bad_ones_is_left_to_its_own_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = two(tmp_path)
    other["answers"].write_text("foreign\n")
    absent = {name: tmp_path / "absent" / path.name for name, path in other.items()}
    run(monkeypatch, own, "harder", sibling(other, "other-skill"), sibling(absent, "in-distribution"))
    assert own["manifest"].exists() and not absent["scores"].parent.exists()
    assert [path.name for path in other["scores"].parent.iterdir()] == ["answers.jsonl"]
    err = capsys.readouterr().err
    assert "other-skill is left to its own job" in err and "in-distribution" not in err


def test_scores_ahead_of_changed_answers_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = two(tmp_path)
    run(monkeypatch, own, "harder", sibling(other, "other-skill"))
    other["answers"].write_text(write_lines(answers(TEXTS | {"p-2": ["="] * 4}, "other-skill")))
    assert run(monkeypatch, other, "other-skill")["mean"] == pytest.approx((0.5 + 0) / 2)


def test_a_sibling_that_is_scored_already_is_not_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = two(tmp_path)
    run(monkeypatch, other, "other-skill")
    run(monkeypatch, own, "harder", sibling(other, "other-skill"))
    assert not list(tmp_path.rglob("*.ahead.*"))


def test_a_job_done_ahead_imports_neither_lm_eval_nor_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = two(tmp_path)
    run(monkeypatch, own, "harder", sibling(other, "other-skill"))
    code = (
        "import sys; from chord.evaluation import score; score.main();"
        "sys.exit(sorted({'torch', 'lm_eval', 'datasets', 'transformers'} & set(sys.modules)) or 0)"
    )
    line = [sys.executable, "-c", code, *command(other, "other-skill")[4:]]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_scoring_as_a_program_leaves_nothing_in_the_home_or_among_temporary_files(tmp_path: Path) -> None:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    paths = placed(tmp_path / "a folder", answers(TEXTS))
    result = as_program(command(paths), HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"))
    assert result.returncode == 0, result.stderr
    assert not any((tmp_path / "home").iterdir()) and not any((tmp_path / "tmp").iterdir())
    assert json.loads(paths["scores"].read_text())["mean"] == pytest.approx(0.375)

"""Every trace is right by construction, and by the grader that pays rewards; rejections are counted by reason."""

import json
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.config.sets import answered
from chord.config.study import Grading
from chord.data.demonstrate import Solution, fault_of, solve
from chord.errors import ConfigError
from chord.grading.graders import grade
from chord.provenance.manifest import read_manifest
from chord.records import Outcome, Problem, Trace, read_lines
from chord.steps import of_traces
from tests.unit.small_study import PARTS, demonstrate, prepare, write_study

SOURCES, TRACES = ("train", "expert", "base"), ("expert", "aligned", "base")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo study with problems and traces."""
    folder = tmp_path_factory.mktemp("a study")
    study, data = write_study(folder), folder / "data"
    for done in (prepare(study, data, *SOURCES), demonstrate(study, data / "problems", data, *TRACES)):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def again(made: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs demonstrate on the same problems for a changed study; files go under `tmp_path/data`."""

    def rerun(*traces: str, **changes: object) -> subprocess.CompletedProcess[str]:
        return demonstrate(write_study(tmp_path, **changes), made / "data" / "problems", tmp_path / "data", *traces)

    return rerun


def records(made: Path, name: str) -> tuple[list[Trace], dict[str, Problem]]:
    source = {"aligned": "train"}.get(name, name)
    problems = read_lines(made / "data" / "problems" / f"{source}.jsonl", Problem)
    return read_lines(made / "data" / "traces" / f"{name}.jsonl", Trace), {problem.id: problem for problem in problems}


def test_every_expert_problem_has_a_trace_that_checks_its_digits_twice_and_is_right(made: Path) -> None:
    traces, problems = records(made, "expert")
    assert [trace.problem for trace in traces] == list(problems)
    for trace in traces:
        steps, answer = trace.response.removeprefix(">").split("=")
        first, second = steps.split(";")
        assert first == second and first.count(":") == 3
        assert int(answer) == sum(map(int, trace.prompt.split("+")))
        assert trace.prompt == problems[trace.problem].prompt
        assert trace.expert == "scripted expert"


def test_the_aligned_traces_answer_the_training_prompts_one_each(made: Path) -> None:
    traces, problems = records(made, "aligned")
    assert [trace.problem for trace in traces] == list(problems) and len(traces) == 40
    assert {trace.expert for trace in traces} == {"scripted expert"}


def test_the_base_corpus_has_the_shares_and_styles_of_its_parts_in_a_mixed_order(made: Path) -> None:
    traces, problems = records(made, "base")
    kinds = [(problems[trace.problem].task, "worked" if ":" in trace.response else "terse") for trace in traces]
    assert Counter(kinds) == {
        ("sum-3", "terse"): 1000,
        ("sum-1", "worked"): 200,
        ("sum-2", "worked"): 200,
        ("sum-3", "worked"): 200,
        ("sum-4", "worked"): 200,
        ("reversal", "terse"): 200,
    }
    assert 350 < sum(kind == ("sum-3", "terse") for kind in kinds[:1000]) < 650  # 500 +- 16 if mixed, 0 or 1000 if not
    assert {trace.expert for trace in traces} == {"base corpus writer"}


def test_every_trace_has_a_name_of_its_own_also_where_a_problem_repeats(made: Path) -> None:
    for name in ("expert", "aligned", "base"):
        traces, _ = records(made, name)
        assert len({trace.id for trace in traces}) == len(traces)
    assert len({trace.problem for trace in records(made, "base")[0]}) < 2000  # 200 of 100 sums of two digits


def test_the_counts_have_kept_rejected_and_lengths(made: Path) -> None:
    expert, base = (json.loads((made / "data" / "traces" / f"{name}.json").read_text()) for name in ("expert", "base"))
    lengths = [len(trace.response) + 1 for trace in records(made, "expert")[0]]  # one token a character, one to end
    assert expert["kept"] == 20 and expert["rejected"] == {}
    assert expert["response_tokens"] == {
        "mean": round(sum(lengths) / 20, 3),
        "min": min(lengths),
        "median": sorted(lengths)[9],
        "max": max(lengths),
    }
    assert (expert["writer"], base["writer"]) == ("scripted expert", "base corpus writer")
    assert expert["length_measured_in"].startswith("characters")


def test_the_same_problems_give_the_same_bytes(made: Path, again: Callable[..., Any], tmp_path: Path) -> None:
    assert again("expert", "base").returncode == 0
    for name in ("expert.jsonl", "expert.json", "base.jsonl", "base.json"):
        assert (made / "data/traces" / name).read_bytes() == (tmp_path / "data/traces" / name).read_bytes()


def test_traces_over_the_token_limit_are_rejected_and_counted(
    again: Callable[..., Any], made: Path, tmp_path: Path
) -> None:
    lengths = sorted(len(trace.response) + 1 for trace in records(made, "expert")[0])
    done = again("expert", rollouts__max_response_tokens=lengths[10])
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "data" / "traces" / "expert.json").read_text())
    fit = [length for length in lengths if length <= lengths[10]]
    assert 10 < len(fit) < 20  # else the lengths were all equal and nothing is tested
    assert counts["kept"] == len(fit) and counts["rejected"] == {"too_long": 20 - len(fit)}
    traces = read_lines(tmp_path / "data" / "traces" / "expert.jsonl", Trace)
    assert sorted(len(trace.response) + 1 for trace in traces) == fit


def test_problems_whose_answer_the_solver_does_not_find_are_rejected(made: Path, tmp_path: Path) -> None:
    problems = tmp_path / "wrong"
    shutil.copytree(made / "data" / "problems", problems)
    lines = (problems / "expert.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps(first | {"answer": str(int(first["answer"]) + 1)})
    (problems / "expert.jsonl").write_text("\n".join(lines) + "\n")
    done = demonstrate(made / "config" / "studies" / "demo.yaml", problems, tmp_path / "data", "expert")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "data" / "traces" / "expert.json").read_text())
    assert counts["kept"] == 19 and counts["rejected"] == {"wrong": 1}
    assert first["id"] not in {t.problem for t in read_lines(tmp_path / "data" / "traces" / "expert.jsonl", Trace)}


def test_a_response_that_does_not_end_in_the_final_form_is_rejected(made: Path) -> None:
    study = load(made, study="demo").study
    problem = read_lines(made / "data" / "problems" / "expert.jsonl", Problem)[0]
    answer = problem.answer
    assert fault_of(study, problem, Solution(answer, f"=1={answer}"), 9) is None
    for response in (answer, f"={answer},", f"={answer}=1", f"=1{answer}"):
        assert fault_of(study, problem, Solution(answer, response), 9) == "unparsable"
    assert fault_of(study, problem, Solution("1", f"={answer}"), 9) == "wrong"


def test_the_grader_that_pays_rewards_finds_every_trace_right(made: Path) -> None:
    study = load(made, study="demo").study
    for name in TRACES:
        traces, problems = records(made, name)
        for trace in traces:
            answer = problems[trace.problem].answer
            assert grade(trace.response, "stop", answer, study.grading) is Outcome.RIGHT


def test_the_manifest_names_the_problems_and_what_of_the_study_decided_the_traces(made: Path) -> None:
    study = load(made, study="demo").study
    for name in TRACES:
        manifest = read_manifest(made / "data" / "traces" / f"{name}.manifest.json")
        assert {key: Path(one.path).name for key, one in manifest.inputs.items()} == {
            "problems": f"{answered(study, name)}.jsonl"
        }
        assert set(manifest.outputs) == {"traces", "counts"}
        assert (manifest.step, manifest.decided_by) == ("data", of_traces(study, name).decided_by)


def test_traces_that_the_study_does_not_have_are_one_line(again: Callable[..., Any]) -> None:
    done = again("elsewhere")
    assert done.returncode == 2
    assert "demo.yaml: found no set 'elsewhere' in it, expected one of: expert, aligned, base" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_chat_model_has_its_traces_in_words(made: Path, again: Callable[..., Any], tmp_path: Path) -> None:
    words = {"grader": "last-number", "reward": "binary"}
    letters = "0123456789+-=>:,;~abcdefghijklmnopqrstuvwxyz "
    done = again("expert", grading=words, expert__style="terse", model__alphabet=letters)
    assert done.returncode == 0, done.stderr
    problems = read_lines(made / "data" / "problems" / "expert.jsonl", Problem)
    traces = read_lines(tmp_path / "data" / "traces" / "expert.jsonl", Trace)
    assert len(traces) == len(problems) == 20
    for problem, trace in zip(problems, traces, strict=True):
        assert trace.response == problem.prompt.replace("+", " + ") + f" = {problem.answer}"


def test_traces_with_a_character_that_the_model_lacks_are_rejected(again: Callable[..., Any]) -> None:
    done = again(
        "expert", model__alphabet="0123456789+-=>:,~abcdefghijklmnopqrstuvwxyz"
    )  # no ; which parts work from check
    assert done.returncode == 2
    assert "20 of 20 problems without a right expert trace ({'a character outside the alphabet': 20})" in done.stderr


def test_a_training_prompt_without_its_trace_stops_a_study_that_needs_one_each(
    again: Callable[..., Any], made: Path, tmp_path: Path
) -> None:
    longest = max(len(trace.response) + 1 for trace in records(made, "aligned")[0])
    done = again("aligned", rollouts__max_response_tokens=longest - 1)
    assert done.returncode == 2
    assert "train.jsonl: found" in done.stderr and "without a right aligned trace" in done.stderr
    assert not list((tmp_path / "data").rglob("*.json*"))


def test_a_style_that_a_task_does_not_have_is_one_line(again: Callable[..., Any], tmp_path: Path) -> None:
    parts = [part | {"style": "worked"} if part["task"] == "reversal" else part for part in PARTS]
    done = again("base", base_corpus__parts=parts)
    assert done.returncode == 2
    assert "found style worked" in done.stderr and "of task 'reversal', expected terse" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.unlink(), "found no such file"),
        (lambda file: file.write_text(""), "found an empty file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "cut off"),
        (lambda file: file.write_text("{}\n"), "expected the fields"),
        (lambda file: file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n"), "run chord prepare again"),
    ],
)
def test_a_damaged_input_is_one_line_that_names_it_and_leaves_no_file(
    made: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    problems = tmp_path / "problems"
    shutil.copytree(made / "data" / "problems", problems)
    spoil(problems / "base.jsonl")
    done = demonstrate(made / "config" / "studies" / "demo.yaml", problems, tmp_path / "data", "base")
    assert done.returncode == 2
    assert str(problems / "base.jsonl") in done.stderr and said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "data").rglob("*.json*"))


# --- the solver --------------------------------------------------------------------------------

MARKED = Grading(grader="marked-text", mark="=", reward="paper-math")
LAST = Grading(grader="last-number", reward="binary")
BOXED = Grading(grader="math", reward="paper-math")


def sum_of(expression: str) -> Problem:
    return Problem("p", "sum", "?", "never read", {"dataset": "chain_sum", "expression": expression})


@pytest.mark.parametrize(
    ("expression", "style", "response"),
    [
        ("178+445", "terse", "=623"),
        ("178+445", "worked", ">850:13,741:12,141:6=623"),
        ("178+445", "checked", ">850:13,741:12,141:6;850:13,741:12,141:6=623"),
        ("9+4", "worked", ">940:13=13"),
        ("0+0", "worked", ">000:0=0"),
        ("999+1", "worked", ">910:10,901:10,901:10=1000"),  # the shorter term is filled up with zeros
        ("99+99+99", "worked", ">9990:27,9992:29=297"),
    ],
)
def test_a_sum_is_worked_from_right_to_left_with_its_carries(expression: str, style: str, response: str) -> None:
    assert solve(sum_of(expression), style, MARKED) == (response.rsplit("=")[-1], response)


@pytest.mark.parametrize(
    ("expression", "style", "response"),
    [
        ("12+35", "terse", "12 + 35 = 47"),
        ("12+35", "worked", "12 + 35 = 47"),
        ("12+35-8", "terse", "12 + 35 - 8 = 39"),
        ("12+35-8", "worked", "12 + 35 = 47, 47 - 8 = 39"),
        ("12+35-8", "checked", "12 + 35 = 47, 47 - 8 = 39; 12 + 35 = 47, 47 - 8 = 39"),
        ("3-5", "terse", "3 - 5 = -2"),
        ("3-5-2", "worked", "3 - 5 = -2, -2 - 2 = -4"),
        ("178+445", "sentences", "178 + 400 = 578. 578 + 40 = 618. 618 + 5 = 623. The answer is 623"),
        ("3-9", "sentences", "3 - 9 = -6. The answer is -6"),
        ("47+30-0-58", "sentences", "47 + 30 = 77. 77 - 0 = 77. 77 - 50 = 27. 27 - 8 = 19. The answer is 19"),
    ],
)
def test_a_chat_model_is_shown_sums_in_words(expression: str, style: str, response: str) -> None:
    answer = response.rsplit(" ")[-1]
    assert solve(sum_of(expression), style, LAST) == (answer, response)
    assert grade(response, "stop", answer, LAST) is Outcome.RIGHT
    boxed = response.removesuffix(answer) + f"\\boxed{{{answer}}}"
    assert solve(sum_of(expression), style, BOXED) == (answer, boxed)
    assert grade(boxed, "stop", answer, BOXED) is Outcome.RIGHT


def test_every_sentence_is_true_and_the_last_number_is_the_answer() -> None:
    draw = random.Random(8)
    for _ in range(300):
        numbers = [draw.randrange(10 ** draw.randint(1, 4)) for _ in range(draw.randint(2, 4))]
        signs = [draw.choice("+-") for _ in numbers[1:]]
        expression = str(numbers[0]) + "".join(f"{s}{n}" for s, n in zip(signs, numbers[1:], strict=True))
        answer = numbers[0] + sum(int(f"{s}{n}") for s, n in zip(signs, numbers[1:], strict=True))
        *steps, last = solve(sum_of(expression), "sentences", LAST).response.split(". ")
        assert last == f"The answer is {answer}"
        for step in steps:
            left, sign, right, _, total = step.split()
            assert int(total) == (int(left) + int(right) if sign == "+" else int(left) - int(right))


@pytest.mark.parametrize(
    ("expression", "style", "grading", "said"),
    [
        ("9*4", "sentences", LAST, "expected terse: not a sum"),
        ("9+4", "sentences", MARKED, "expected terse: grader marked-text reads no sentences"),
        *((expression, "worked", MARKED, "expected terse: not a sum") for expression in ("9-4", "")),
        *((expression, "checked", MARKED, "expected terse: not a sum") for expression in ("9-4", "")),
        ("9+4", "terse", Grading(grader="tool-call", reward="binary"), "expected an expert that calls tools"),
    ],
)
def test_a_style_or_a_grader_that_a_problem_does_not_fit_is_refused(
    expression: str, style: str, grading: Grading, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        solve(sum_of(expression), style, grading)


def test_the_solver_adds_by_itself_and_is_right() -> None:
    draw = random.Random(7)
    for _ in range(300):
        left, right = draw.randrange(10 ** draw.randint(1, 12)), draw.randrange(10 ** draw.randint(1, 12))
        assert solve(sum_of(f"{left}+{right}"), "worked", MARKED).answer == str(left + right)


def test_differences_are_worked_out_too_and_have_no_steps_in_digits() -> None:
    assert solve(sum_of("9-4"), "terse", MARKED) == ("5", "=5")
    assert solve(sum_of("4-9+2"), "terse", MARKED) == ("-3", "=-3")


def test_a_word_is_reversed_and_other_tasks_have_the_generators_answer() -> None:
    word = Problem("p", "reversal", "~abcd", "never read", {"dataset": "spell_backward", "word": "abcd"})
    assert solve(word, "terse", MARKED) == ("dcba", "=dcba")
    other = Problem("p", "lcm", "?", "12", {"dataset": "lcm", "word": "not to be reversed"})
    assert solve(other, "terse", MARKED) == ("12", "=12")
    assert solve(other, "terse", LAST) == ("12", "The answer is 12")
    assert solve(other, "terse", BOXED) == ("12", "The answer is \\boxed{12}")
    product = Problem("p", "basic", "?", "14", {"dataset": "basic_arithmetic", "expression": "2+3*4"})
    assert solve(product, "terse", LAST) == ("14", "The answer is 14")

"""Every trace is right by construction, and by the grader that pays rewards; rejections are counted by reason."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.config.study import Grading
from chord.data.demonstrate import Slips, Solution, fault_of, solve
from chord.errors import ConfigError
from chord.grading.graders import grade
from chord.provenance.manifest import read_manifest
from chord.records import Outcome, Problem, Trace, read_lines
from tests.unit.small_study import PARTS, demonstrate, prepare, write_study

SOURCES, TRACES = ("train", "expert", "base"), ("expert", "aligned", "base")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo study with problems and traces."""
    folder = tmp_path_factory.mktemp("a study")
    study, data = write_study(folder), folder / "data"
    prepare(study, data, *SOURCES)
    demonstrate(study, data / "problems", data, *TRACES)
    return folder


@pytest.fixture
def again(made: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs demonstrate on the same problems for a changed study; files go under `tmp_path/data`."""

    def rerun(*traces: str, code: int = 0, **changes: object) -> str:
        study, problems = write_study(tmp_path, **changes), made / "data" / "problems"
        return demonstrate(study, problems, tmp_path / "data", *traces, code=code).stderr

    return rerun


def records(made: Path, name: str) -> tuple[list[Trace], dict[str, Problem]]:
    source = {"aligned": "train"}.get(name, name)
    problems = read_lines(made / "data" / "problems" / f"{source}.jsonl", Problem)
    return read_lines(made / "data" / "traces" / f"{name}.jsonl", Trace), {problem.id: problem for problem in problems}


def test_every_problem_has_one_trace_with_a_name_of_its_own_that_the_grader_of_rewards_finds_right(made: Path) -> None:
    study = load(made, study="demo").study
    for name in TRACES:
        traces, problems = records(made, name)
        assert len({trace.id for trace in traces}) == len(traces)
        if name != "base":
            assert [trace.problem for trace in traces] == list(problems)
        for trace in traces:
            problem = problems[trace.problem]
            assert trace.prompt == problem.prompt
            assert grade(trace.response, "stop", problem.answer, study.grading) is Outcome.RIGHT
        assert {trace.expert for trace in traces} == {"base corpus writer" if name == "base" else "scripted expert"}
    assert len({trace.problem for trace in traces}) < 2000  # 200 of 100 sums of two digits


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
    again("expert", "base")
    for name in ("expert.jsonl", "expert.json", "base.jsonl", "base.json"):
        assert (made / "data/traces" / name).read_bytes() == (tmp_path / "data/traces" / name).read_bytes()


def test_traces_over_the_token_limit_are_counted(again: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    lengths = sorted(len(trace.response) + 1 for trace in records(made, "expert")[0])
    again("expert", rollouts__max_response_tokens=lengths[10])
    counts = json.loads((tmp_path / "data" / "traces" / "expert.json").read_text())
    fit = [length for length in lengths if length <= lengths[10]]
    assert 10 < len(fit) < 20  # else the lengths were all equal and nothing is tested
    assert counts["kept"] == len(fit) and counts["rejected"] == {"too_long": 20 - len(fit)}
    traces = read_lines(tmp_path / "data" / "traces" / "expert.jsonl", Trace)
    assert sorted(len(trace.response) + 1 for trace in traces) == fit


def test_a_response_that_does_not_end_in_the_final_form_is_rejected(made: Path) -> None:
    study = load(made, study="demo").study
    problem = read_lines(made / "data" / "problems" / "expert.jsonl", Problem)[0]
    answer = problem.answer
    assert fault_of(study, problem, Solution(answer, f"=1={answer}"), 9) is None
    for response in (answer, f"={answer},", f"={answer}=1", f"=1{answer}"):
        assert fault_of(study, problem, Solution(answer, response), 9) == "unparsable"
    assert fault_of(study, problem, Solution("1", f"={answer}"), 9) == "wrong"


NO_SEMICOLON = "0123456789+-=>:,~abcdefghijklmnopqrstuvwxyz"  # which parts work from check
ALL_WORKED = [part | {"style": "worked"} for part in PARTS]


@pytest.mark.parametrize(
    ("traces", "changes", "said"),
    [
        ("elsewhere", {}, "demo.yaml: found no set 'elsewhere' in it, expected one of: expert, aligned, base"),
        ("base", {"base_corpus__parts": ALL_WORKED}, "found style worked .* of task 'reversal', expected terse"),
        ("expert", {"model__alphabet": NO_SEMICOLON}, "20 of 20 .*'a character outside the alphabet': 20"),
        ("aligned", {"rollouts__max_response_tokens": 46}, "found [123]?[0-9] of 40 .* without a right aligned trace"),
    ],
)
def test_a_set_that_is_not_there_or_lacks_the_trace_of_a_problem_is_one_line_and_leaves_no_file(
    again: Callable[..., Any], tmp_path: Path, traces: str, changes: dict[str, Any], said: str
) -> None:
    told = again(traces, code=2, **changes)
    assert re.search(said, told), told
    assert not list((tmp_path / "data").rglob("*.json*"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.unlink(), "found no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "cut off"),
        (lambda file: file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n"), "run chord prepare again"),
    ],
)
def test_a_damaged_input_is_one_line_that_names_it_and_leaves_no_file(
    made: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    problems = tmp_path / "problems"
    shutil.copytree(made / "data" / "problems", problems)
    spoil(problems / "base.jsonl")
    told = demonstrate(made / "config" / "studies" / "demo.yaml", problems, tmp_path / "data", "base", code=2).stderr
    assert str(problems / "base.jsonl") in told and said in told
    assert not list((tmp_path / "data").rglob("*.json*"))


def test_the_manifest_names_the_problems_that_are_answered(made: Path) -> None:
    for name, problems in (("expert", "expert"), ("aligned", "train"), ("base", "base")):
        manifest = read_manifest(made / "data" / "traces" / f"{name}.manifest.json")
        assert {key: Path(one.path).name for key, one in manifest.inputs.items()} == {"problems": f"{problems}.jsonl"}


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
        ("9-4", "terse", "=5"),  # differences have no steps in digits
        ("4-9+2", "terse", "=-3"),
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


def test_a_text_goes_on_from_its_slips_and_ends_in_what_they_add_up_to() -> None:
    draw, slipped, steps = random.Random(9), 0, 0
    for seed in range(400):
        left, right = draw.randrange(100, 1000), draw.randrange(100, 1000)
        said = solve(sum_of(f"{left}+{right}"), "worked", MARKED, Slips(0.3, seed)).response
        body, _, answer = said.removeprefix(">").partition("=")
        carry, digits = 0, ""
        for column, step in zip((-1, -2, -3), body.split(","), strict=True):
            terms, _, total = step.partition(":")
            assert terms == f"{str(left)[column]}{str(right)[column]}{carry}"
            right_one = sum(map(int, terms))
            assert abs(int(total) - right_one) <= 5 and 0 <= int(total) <= 19
            slipped, steps, carry = slipped + (int(total) != right_one), steps + 1, int(total) // 10
            digits = str(int(total) % 10) + digits
        assert answer == str(int(f"{carry}{digits}"))
    assert 0.26 < slipped / steps < 0.34  # three standard deviations of 1,200 draws at 0.3
    again = [solve(sum_of("123+456"), "checked", MARKED, Slips(0.9, 5)) for _ in range(2)]
    assert again[0] == again[1]
    first, _, second = again[0].response[1:].partition("=")[0].partition(";")
    assert first == second  # it is the same steps again that are written


def test_a_corpus_may_hold_slips_and_the_expert_never_does(tmp_path: Path) -> None:
    part = PARTS[1] | {"share": 1.0, "slips": 0.5}
    study = write_study(tmp_path, base_corpus__parts=[part])
    prepare(study, tmp_path / "data", "base")
    demonstrate(study, tmp_path / "data" / "problems", tmp_path / "data", "base")
    written, problems = records(tmp_path, "base")
    wrong = [
        one for one in written if grade(one.response, "stop", problems[one.problem].answer, MARKED) != Outcome.RIGHT
    ]
    assert 0.3 < len(wrong) / len(written) < 0.95
    counts = json.loads((tmp_path / "data/traces/base.json").read_text())
    assert counts["rejected"] == {}
    with pytest.raises(ConfigError, match=r"found slips 0\.5 with style terse, expected a style with steps"):
        load(write_study(tmp_path, base_corpus__parts=[part | {"style": "terse"}]).parents[2])


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
def test_what_a_problem_does_not_fit_is_refused(expression: str, style: str, grading: Grading, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        solve(sum_of(expression), style, grading)


def test_the_solver_adds_by_itself_and_is_right() -> None:
    draw = random.Random(7)
    for _ in range(300):
        left, right = draw.randrange(10 ** draw.randint(1, 12)), draw.randrange(10 ** draw.randint(1, 12))
        assert solve(sum_of(f"{left}+{right}"), "worked", MARKED).answer == str(left + right)


def test_a_word_is_reversed_and_other_tasks_have_the_generators_answer() -> None:
    word = Problem("p", "reversal", "~abcd", "never read", {"dataset": "spell_backward", "word": "abcd"})
    assert solve(word, "terse", MARKED) == ("dcba", "=dcba")
    other = Problem("p", "lcm", "?", "12", {"dataset": "lcm", "word": "not to be reversed"})
    product = Problem("p", "basic", "?", "12", {"dataset": "basic_arithmetic", "expression": "2+5*2"})
    for grading, response in ((MARKED, "=12"), (LAST, "The answer is 12"), (BOXED, "The answer is \\boxed{12}")):
        assert solve(other, "terse", grading) == solve(product, "terse", grading) == ("12", response)

"""Benchmarks as lm-eval tasks: what the files may say, and that lm-eval asks exactly the problems it is given."""

import shutil
from pathlib import Path

import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from chord.config import load
from chord.provenance.files import UserError
from chord.records import Problem, RecordError, write_lines
from chord.tasks.benchmarks import Benchmark, ask, measure, read_benchmark, read_problems
from chord.tasks.stored import Response

ROOT = Path(__file__).resolve().parents[2]
STUDY = load(ROOT, "demo").study


class Recording(LM):
    """Says what `says` gives for a document, and remembers the prompts it was asked."""

    def __init__(self, says: str = "answer") -> None:
        super().__init__()
        self.says, self.prompts = says, list[str]()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        responses = []
        for request in requests:
            self.prompts.append(request.arguments[0])
            responses.append(Response("=" + str(request.doc[self.says])))
            responses[-1].finish = "stop"
        return responses

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def problem(number: int, prompt: str, answer: str) -> Problem:
    return Problem(f"p-{number}", "sum-3", prompt, answer, {"index": number})


def copied_config(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path


@pytest.mark.parametrize("name", STUDY.benchmarks)
def test_every_benchmark_of_the_demo_is_a_task_that_lm_eval_runs_and_grades(name: str) -> None:
    benchmark = read_benchmark(ROOT, STUDY, name)
    problems = [problem(1, "1+2", "3"), problem(2, "2+2", "4")]
    k = benchmark.samples_per_problem
    right = measure(Recording("answer"), benchmark, problems, STUDY.grading.form)["results"][name]
    wrong = measure(Recording("id"), benchmark, problems, STUDY.grading.form)["results"][name]
    assert (right[f"avg@{k},samples"], right[f"pass@{k},samples"]) == (1.0, 1.0)
    assert (wrong[f"avg@{k},samples"], wrong[f"pass@{k},samples"]) == (0.0, 0.0)
    assert right["outcomes,samples"]["right"] == 2 * k


@pytest.fixture
def benchmark() -> Benchmark:
    return read_benchmark(ROOT, STUDY, "in-distribution")


def test_lm_eval_asks_each_prompt_unchanged_and_k_times(benchmark: Benchmark) -> None:
    texts = [
        "{{answer}} {% if %}",
        " spaces at both ends ",
        "two\nlines",
        "line\u2028separator",
        "return\rhere",
        "ü ∑ 数",
    ]
    model = Recording()
    ask(model, benchmark, [problem(number, text, "1") for number, text in enumerate(texts)])
    assert model.prompts == [text for text in texts for _ in range(benchmark.samples_per_problem)]


def test_answers_that_look_like_dates_or_numbers_stay_text(benchmark: Benchmark) -> None:
    problems = [problem(1, "day after new year", "2020-01-02"), problem(2, "2020-01-01", "2020-01-01")]
    results = measure(Recording(), benchmark, problems, STUDY.grading.form)
    assert [sample["doc"]["answer"] for sample in results["samples"][benchmark.task]] == ["2020-01-02", "2020-01-01"]
    assert results["results"][benchmark.task]["avg@4,samples"] == 1.0


def test_asking_grades_nothing(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("graded")

    monkeypatch.setattr("chord.tasks.stored.grade", refuse)
    model = Recording()
    ask(model, benchmark, [problem(1, "1+2", "3")])
    assert len(model.prompts) == 4
    with pytest.raises(AssertionError, match="graded"):  # the same patch would have been met by grading
        measure(model, benchmark, [problem(1, "1+2", "3")], STUDY.grading.form)


BAD = {
    "repeats": (0, "repeats is 0, expected: "),
    "metadata": ({}, "metadata.version is nothing"),
    "generation_kwargs": (
        {"do_sample": True, "temperature": 0.0, "until": [], "max_gen_toks": 8},
        "generation_kwargs.temperature is 0.0",
    ),
    "metric_list": ([{"metric": "avg@8"}], "metric_list has ['avg@8'], expected ['avg@4', 'outcomes', 'pass@4']"),
    "filter_list": ([{"name": "samples", "filter": [{"function": "take_first"}]}], "take_first_k with k = 4"),
    "output_type": ("loglikelihood", 'output_type is "loglikelihood"'),
}


@pytest.mark.parametrize("key", BAD)
def test_a_benchmark_file_that_cannot_be_used_is_named_with_key_and_value(key: str, tmp_path: Path) -> None:
    root = copied_config(tmp_path)
    file = root / "config/benchmarks/harder.yaml"
    value, expected = BAD[key]
    kept = [line for line in file.read_text().splitlines() if "!function" not in line]
    file.write_text(yaml.safe_dump(yaml.safe_load("\n".join(kept)) | {"metric_list": metrics(4)} | {key: value}))
    with pytest.raises(UserError) as error:
        read_benchmark(root, STUDY, "harder")
    assert str(error.value).startswith("config/benchmarks/harder.yaml: ")
    assert expected in str(error.value) and "\n" not in str(error.value)


def metrics(k: int) -> list[dict[str, str]]:
    return [{"metric": f"avg@{k}"}, {"metric": f"pass@{k}"}, {"metric": "outcomes"}]


@pytest.mark.parametrize("text", ["", "- a list\n", "a: [\n", "include: other.yaml\n", "\x00"])
def test_a_benchmark_file_that_is_no_task_is_named_in_one_line(text: str, tmp_path: Path) -> None:
    root = copied_config(tmp_path)
    (root / "config/benchmarks/harder.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^config/benchmarks/harder.yaml: found .*$") as error:
        read_benchmark(root, STUDY, "harder")
    assert "\n" not in str(error.value)


def test_a_misspelt_benchmark_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="found no benchmark 'hardr', expected `harder` \\(nearest\\) or one of:"):
        read_benchmark(ROOT, STUDY, "hardr")


def test_reading_a_definition_runs_none_of_its_functions(tmp_path: Path) -> None:
    root = copied_config(tmp_path)
    file = root / "config/benchmarks/harder.yaml"
    file.write_text(file.read_text().replace("chord.tasks.stored.process_results", "no.such.module.at_all"))
    assert read_benchmark(root, STUDY, "harder").samples_per_problem == 4


def test_a_problem_twice_or_without_text_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(write_lines([problem(1, "1+1", "2"), problem(1, "1+2", "3")]))
    with pytest.raises(RecordError, match=r"problems.jsonl, line 2: found problem 'p-1' again"):
        read_problems(file)
    file.write_text(write_lines([Problem("p", "sum-3", "1+1", 2, {})]))  # type: ignore[arg-type]
    with pytest.raises(
        RecordError, match=r"problems.jsonl, line 1: found answer = 2, expected: Input should be a valid string"
    ):
        read_problems(file)

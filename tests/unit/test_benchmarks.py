"""Benchmarks as lm-eval tasks: what the files may say, and that lm-eval asks exactly the problems it is given."""

import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.config.task import TaskConfig

from chord.config.benchmarks import BenchmarkTask, Metric
from chord.config.project import load
from chord.errors import RecordError, UserError
from chord.evaluation.benchmarks import Benchmark, Response, ask, measure, read_benchmark, read_problems
from chord.records import Problem, write_lines
from tests.projects import ROOT, replace

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
    texts = ["{{answer}} {% if %}", " at both ends ", "two\nlines", "line\u2028separator", "return\rhere", "ü ∑ 数"]
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

    monkeypatch.setattr("chord.evaluation.benchmarks.grade_all", refuse)
    model = Recording()
    ask(model, benchmark, [problem(1, "1+2", "3")])
    assert len(model.prompts) == 4
    with pytest.raises(AssertionError, match="graded"):  # the same patch would have been met by grading
        measure(model, benchmark, [problem(1, "1+2", "3")], STUDY.grading.form)


# what stands in harder.yaml, what is put in its place, what is said
BAD = [
    ("doc_to_text: prompt", "doc_to_txt: prompt", "doc_to_txt is not a key here, expected `doc_to_text` (nearest)"),
    ("doc_to_text: prompt", "doc_to_text: prmpt", 'doc_to_text is "prmpt", expected `prompt` (nearest)'),
    ("doc_to_target: answer", "doc_to_target: 3", "doc_to_target is 3, expected one of: answer"),
    ("task: harder", "task: aime24", "task is 'aime24', expected 'harder', the name of the file"),
    ("task: harder", "task: harder\ndescription: Solve", "found `description`, which lm-eval knows and a benchmark he"),
    ("task: harder", "include: aime24.yaml", "found `include`, which lm-eval knows"),
    ("test_split: test", "test_split: train", 'test_split is "train", expected one of: test'),
    ("num_fewshot: 0", "num_fewshot: 5", "num_fewshot is 5, expected one of: 0"),
    ("generate_until", "loglikelihood", 'output_type is "loglikelihood", expected one of: generate_until'),
    ("repeats: 4", "repeats: 0", "repeats is 0, expected at least 1"),
    ("repeats: 4", "repeats: 8", "expected ['avg@8', 'outcomes', 'pass@8'], as repeats is 8"),
    ("take_first_k", "take_frist_k", "expected one filter called `samples`, take_first_k with k = 4"),
    ("temperature: 1.0", "temperature: .inf", "generation_kwargs.temperature is Infinity, expected a number"),
    ("temperature: 1.0", "temperature: 1e3", "generation_kwargs.temperature is 1000.0, expected at most 10"),
    ("temperature: 1.0", "temperature: 1.0\n  top_p: 0.9", "generation_kwargs.top_p is not a key here, expected"),
    ("max_gen_toks: 96", "max_gen_toks: 10000000000", "max_gen_toks is 10000000000, expected at most 1e+07"),
    ("until: []", 'until: ["."]', 'generation_kwargs.until is ["."], expected at most 0 of them'),
    ("aggregation: mean", "aggregation: maen", "metric_list.0: found aggregation 'maen' of avg@4, expected `mean`"),
    ("!function chord.evaluation.benchmarks.counted", "mean", "metric_list.2: found 'mean', expected `!func"),
    (".counted", ".countd", "no function 'countd' in chord.evaluation.benchmarks, expected `counted`"),
    (".counted", ".Counter", "found no function 'Counter' in chord.evaluation.benchmarks, expected"),
    ("benchmarks.counted", "benchmarks.process_results", "found process_results(doc"),
    ("benchmarks.process_results", "benchmarks.counted", "process_results: found counted("),
    ("chord.evaluation.benchmarks.process_results", "chord.settings.derive", "process_results: found a function annot"),
    ("chord.evaluation.benchmarks.documents", "chord.evaluation.benchmarks.read_problems", "process_docs: found a fun"),
    ("evaluation.benchmarks.counted", "grading.graders.last_boxed", "metric_list.2: found a function annotated to re"),
    ("chord.evaluation.benchmarks.process_results", "os.system", "process_results: found '!function os.system', "),
    ("chord.evaluation.benchmarks.process_results", "chord..system", "found '!function chord..system', expected `!fun"),
    ("chord.evaluation.benchmarks.process_results", "chord.nothing.there", "found no module chord.nothing, expected"),
    ("!function chord.evaluation.benchmarks.documents", "chord.evaluation.benchmarks.documents", "process_docs: found"),
    ("version: 1 ", "versionx: 1 ", "metadata.version is missing, expected a value"),
    ("version: 1 ", "version: [1] ", "metadata.version is [1], expected a whole number or text"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), BAD, ids=range(len(BAD)))
def test_a_benchmark_file_that_cannot_be_used_is_named_with_key_and_value(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    replace(copied_config(tmp_path) / "config/benchmarks/harder.yaml", old, new)
    with pytest.raises(UserError) as error:
        read_benchmark(tmp_path, STUDY, "harder")
    lines = str(error.value).splitlines()
    assert all(line.startswith("config/benchmarks/harder.yaml") for line in lines)
    assert [line for line in lines if said in line], lines


@pytest.mark.parametrize("text", ["", "- a list\n", "a: [\n", "include: other.yaml\n"])
def test_a_benchmark_file_that_is_no_task_is_named_in_one_line(text: str, tmp_path: Path) -> None:
    (copied_config(tmp_path) / "config/benchmarks/harder.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^config/benchmarks/harder.yaml(, line \d+, column \d+)?: found .*$") as error:
        read_benchmark(tmp_path, STUDY, "harder")
    assert "\n" not in str(error.value)


def test_keys_that_change_no_question_are_taken(tmp_path: Path) -> None:
    with (copied_config(tmp_path) / "config/benchmarks/harder.yaml").open("a") as file:
        file.write("tag: [sums, digits]\ntask_alias: four digits\nshould_decontaminate: false\n")
    benchmark = read_benchmark(tmp_path, STUDY, "harder")
    results = measure(Recording(), benchmark, [problem(1, "1+2", "3")], STUDY.grading.form)
    assert results["results"]["harder"]["avg@4,samples"] == 1.0


def test_every_key_that_is_taken_is_one_of_lm_eval() -> None:
    taken = set(BenchmarkTask.model_fields)
    assert taken <= {field.name for field in dataclasses.fields(TaskConfig)}
    assert set(Metric.model_fields) <= {"metric", "aggregation", "higher_is_better", "hf_evaluate"}


def test_a_misspelt_benchmark_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="found no benchmark 'hardr', expected `harder` \\(nearest\\) or one of:"):
        read_benchmark(ROOT, STUDY, "hardr")


def test_the_names_that_config_is_checked_against_are_those_of_the_installed_packages() -> None:
    place = importlib.util.spec_from_file_location("known_names", ROOT / "workflow/schemas/known.py")
    assert place and place.loader
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    assert module.FILE.read_text(encoding="utf-8") == module.known(), "run python workflow/schemas/known.py"


def test_reading_a_definition_imports_nothing_that_it_names() -> None:
    code = (
        "import sys; from pathlib import Path; from chord.config.benchmarks import read_task;"
        "read_task(Path('config/benchmarks/harder.yaml'), 'x');"
        "sys.exit(sorted({'chord.grading', 'lm_eval', 'torch'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_problem_twice_or_without_text_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(write_lines([problem(1, "1+1", "2"), problem(1, "1+2", "3")]))
    with pytest.raises(RecordError, match=r"problems.jsonl, line 2: found problem 'p-1' again"):
        read_problems(file)
    file.write_text(write_lines([Problem("p", "sum-3", "1+1", 2, {})]))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"line 1: found answer = 2, expected: Input should be a valid string"):
        read_problems(file)

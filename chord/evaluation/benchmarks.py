"""Benchmarks: what each asks and how often, and how lm-eval asks and grades it.

A benchmark is an lm-eval task YAML in `config/benchmarks`; the study says which problems stand in it. lm-eval takes
seconds to import, so it is imported inside the functions that need it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from chord.config.benchmarks import read_task
from chord.config.study import AnswerForm, Study
from chord.errors import RecordError, UserError, expected
from chord.grading.graders import grade_all
from chord.records import Answer, Outcome, Problem, read_lines

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.model import LM


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark asks of a model. `task` is the name that lm-eval knows it by.

    `definition` is all that its file says; comments and layout do not count.
    """

    name: str
    task: str
    file: Path
    definition: dict[str, Any]
    version: int | str
    samples_per_problem: int
    max_response_tokens: int
    temperature: float


def read_benchmark(root: Path, study: Study, name: str) -> Benchmark:
    """What `study`, of the project in `root`, calls `name`. Raises UserError if name or file cannot be used."""
    if name not in study.benchmarks:
        file = f"config/studies/{study.name}.yaml"
        raise UserError(f"{file}: found no benchmark '{name}', {expected(name, study.benchmarks)}")
    file = root / "config" / "benchmarks" / study.benchmarks[name].file
    raw, definition = read_task(file, f"config/benchmarks/{file.name}")
    return Benchmark(
        name=name,
        task=definition.task,
        file=file,
        definition=raw,
        version=definition.metadata.version,
        samples_per_problem=definition.repeats,
        max_response_tokens=definition.generation_kwargs.max_gen_toks,
        temperature=definition.generation_kwargs.temperature,
    )


def read_problems(file: Path) -> list[Problem]:
    """The problems in the file, in its order; refused if an id comes twice."""
    problems = read_lines(file, Problem)
    seen: set[str] = set()
    for number, problem in enumerate(problems, start=1):
        if problem.id in seen:
            raise RecordError(f"{file}, line {number}: found problem '{problem.id}' again, expected each id once")
        seen.add(problem.id)
    return problems


def keep_offline() -> None:
    """From here on, libraries of Hugging Face stay off the network and draw no bars. Call before importing them."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def ask(model: "LM", benchmark: Benchmark, problems: Sequence[Problem]) -> None:
    """lm-eval puts every problem to `model`, k times over, and grades nothing."""
    _evaluate(model, benchmark, [_document(problem) for problem in problems], grades=False)


def measure(model: "LM", benchmark: Benchmark, problems: Sequence[Problem], form: AnswerForm) -> dict[str, Any]:
    """lm-eval's own results, with its samples, of putting every problem to `model` and grading what it says."""
    told = {"form": form.model_dump_json()}
    return _evaluate(model, benchmark, [_document(problem) | told for problem in problems], grades=True)


def _evaluate(model: "LM", benchmark: Benchmark, docs: Sequence[dict[str, str]], grades: bool) -> dict[str, Any]:
    """What lm-eval returns for the benchmark with these documents. All its files and caches are gone afterwards."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    with TemporaryDirectory(prefix="chord-lm-eval-") as folder:
        lines, task = Path(folder, "documents.jsonl"), Path(folder, "task.yaml")
        lines.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
        data = {"data_files": {"test": str(lines)}, "cache_dir": str(Path(folder, "cache"))}
        included = {"include": str(benchmark.file.resolve()), "dataset_kwargs": data}
        task.write_text(json.dumps(included), encoding="utf-8")
        loaded: Any = TaskManager(include_defaults=False).load([str(task)])
        if not grades:
            loaded["tasks"][benchmark.task].override_metric("bypass")
        results = evaluate(lm=model, task_dict=loaded)
    assert results is not None, "lm-eval gives results to the first rank, and this is the only one"
    return dict(results)


def _document(problem: Problem) -> dict[str, str]:
    """What lm-eval is told of a problem. `measure` adds how to grade it, for lm-eval shows a grader nothing else."""
    return {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer}


# --- functions that the files in config/benchmarks name ------------------------------------------


def documents(lines: Any) -> "Dataset":
    """lm-eval's documents, one for each JSON line, with every text as it was written."""
    import datasets

    return datasets.Dataset.from_list([json.loads(line) for line in lines["text"]])


class Response(str):
    """The text of an answer, as lm-eval hands it to the grader, with how it ended: "stop" or "length"."""

    finish: str

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The answer as a response."""
        response = cls(answer.text)
        response.finish = answer.finish
        return response


def process_results(doc: Mapping[str, Any], results: Sequence[Sequence[Response]]) -> dict[str, Any]:
    """What lm-eval records of one problem with k answers: avg@k, pass@k, and the outcome of each answer in order."""
    form = AnswerForm.model_validate_json(doc["form"])
    outcomes = grade_all([(str(text), text.finish, doc["answer"]) for text in results[0]], form)
    right = [outcome is Outcome.RIGHT for outcome in outcomes]
    return {
        f"avg@{len(right)}": sum(right) / len(right),
        f"pass@{len(right)}": float(any(right)),
        "outcomes": [outcome.value for outcome in outcomes],
    }


def counted(outcomes: Iterable[Sequence[str]]) -> dict[str, int]:
    """How many answers had each outcome; lm-eval's aggregation over all problems."""
    counts = Counter(outcome for answers in outcomes for outcome in answers)
    return {outcome.value: counts[outcome.value] for outcome in Outcome}

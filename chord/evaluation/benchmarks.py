"""Benchmarks: what each asks and how often, and its problems as lm-eval tasks. Knows no grader, no sampler, no model.

A benchmark is an lm-eval task YAML in `config/benchmarks`; the study says which problems stand in it. lm-eval takes
seconds to import, so it is imported inside the functions that need it.
"""

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from chord.config.benchmarks import read_task
from chord.config.study import AnswerForm, Study
from chord.errors import ConfigError, RecordError, UserError
from chord.records import Problem, read_lines

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

    @property
    def metric(self) -> str:
        """The name of its number: the mean share of right samples, over k samples for each problem."""
        return f"avg@{self.samples_per_problem}"


def read_benchmark(root: Path, study: Study, name: str) -> Benchmark:
    """What `study`, of the project in `root`, calls `name`. Raises UserError if name or file cannot be used."""
    if name not in study.benchmarks:
        near = difflib.get_close_matches(name, study.benchmarks, n=1)
        hint = f"`{near[0]}` (nearest) or " if near else ""
        raise UserError(
            f"config/studies/{study.name}.yaml: found no benchmark '{name}', expected {hint}one of:"
            f" {', '.join(study.benchmarks)}"
        )
    file = root / "config" / "benchmarks" / study.benchmarks[name].file
    try:
        raw, definition = read_task(file, f"config/benchmarks/{file.name}")
    except ConfigError as error:
        raise UserError(str(error)) from None
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
    from lm_eval.evaluator import evaluate

    with TemporaryDirectory(prefix="chord-lm-eval-") as folder:
        loaded = _load_task(benchmark, [_document(problem) for problem in problems], Path(folder))
        loaded["tasks"][benchmark.task].override_metric("bypass")
        evaluate(lm=model, task_dict=loaded)


def measure(model: "LM", benchmark: Benchmark, problems: Sequence[Problem], form: AnswerForm) -> dict[str, Any]:
    """lm-eval's own results, with its samples, of putting every problem to `model` and grading what it says."""
    from lm_eval.evaluator import evaluate

    with TemporaryDirectory(prefix="chord-lm-eval-") as folder:
        told = {"form": form.model_dump_json()}
        loaded = _load_task(benchmark, [_document(problem) | told for problem in problems], Path(folder))
        results = evaluate(lm=model, task_dict=loaded)
    assert results is not None, "lm-eval gives results to the first rank, and this is the only one"
    return dict(results)


def _load_task(benchmark: Benchmark, docs: Sequence[dict[str, str]], folder: Path) -> Any:
    """The benchmark with these documents in it, as lm-eval takes it. All files and caches lie in `folder`."""
    from lm_eval.tasks import TaskManager

    lines, task = folder / "documents.jsonl", folder / "task.yaml"
    lines.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    data = {"data_files": {"test": str(lines)}, "cache_dir": str(folder / "cache")}
    task.write_text(json.dumps({"include": str(benchmark.file.resolve()), "dataset_kwargs": data}), encoding="utf-8")
    return TaskManager(include_defaults=False).load([str(task)])


def documents(lines: "Dataset") -> "Dataset":
    """lm-eval's documents, one for each JSON line, with every text as it was written."""
    import datasets

    return datasets.Dataset.from_list([json.loads(line) for line in lines["text"]])


def _document(problem: Problem) -> dict[str, str]:
    """What lm-eval is told of a problem. `measure` adds how to grade it, for lm-eval shows a grader nothing else."""
    return {name: getattr(problem, name) for name in ("id", "prompt", "answer")}

"""Answers -> scores, through lm-eval and the grader that pays rewards. Needs no model; nothing is generated again.

chord score --study NAME --benchmark NAME --answers FILE --problems FILE --scores OUT --manifest OUT
    [--ahead NAME=ANSWERS=PROBLEMS=SCORES ...]

`--ahead` names other benchmarks of the same model: their scores are made by this process too, if their answers are
there, and wait for their own jobs (see chord.evaluation.ahead). The standard error is over problems: samples of one
problem are not independent, so each problem counts once, with the mean of its samples.
"""

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.config.project import add_study, project_of
from chord.config.study import AnswerForm, Study
from chord.errors import RecordError, UserError
from chord.evaluation import ahead
from chord.evaluation.benchmarks import Benchmark, keep_offline, measure, read_benchmark, read_problems
from chord.provenance.digest import code_digest
from chord.provenance.environment import key_packages
from chord.provenance.files import file_sha256, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import Answer, Outcome, Problem, read_lines
from chord.steps import of_scores

VERB = "chord score"


@dataclass(frozen=True)
class Job:
    """Scores that are wanted: of which answers, to which problems, and the key of all that decides them."""

    benchmark: Benchmark
    form: AnswerForm
    problems: tuple[Problem, ...]
    answers: tuple[Answer, ...]
    scores: Path
    key: str


def main() -> None:
    """Score one benchmark's answers; then those of its siblings that nobody has scored yet."""
    args = _arguments()
    project = project_of(args)
    root, study = args.root, project.study
    benchmark = read_benchmark(root, study, args.benchmark)
    with Manifest.recording(
        args.manifest,
        of_scores(study, benchmark.name, benchmark.definition),
        inputs={"answers": args.answers, "problems": args.problems},
        outputs={"scores": args.scores},
    ) as recording:
        job = _job(study, benchmark, args.answers, args.problems, args.scores)
        recording.extra["key"] = job.key
        with ahead.claimed(args.scores, wait=True):
            made_by = ahead.take(args.scores, job.key)
            if made_by is not None:
                recording.extra["made_ahead_by"] = made_by
                return
            write_atomically(args.scores, scores_text(job))
    for name, answers, problems, scores in args.ahead:
        try:
            if answers.exists():
                _score_ahead(_job(study, read_benchmark(root, study, name), answers, problems, scores))
        except UserError as error:
            print(f"{VERB}: {name} is left to its own job: {error}", file=sys.stderr)


def _score_ahead(job: Job) -> None:
    with ahead.claimed(job.scores, wait=False) as mine:
        if mine and not ahead.is_done(job.scores, job.key):
            ahead.leave(job.scores, job.key, scores_text(job), VERB, {})


def _job(study: Study, benchmark: Benchmark, answers: Path, problems: Path, scores: Path) -> Job:
    """The job, with everything it reads checked."""
    asked, answered = read_problems(problems), read_lines(answers, Answer)
    check_answers(answers, answered, asked, benchmark)
    decided = of_scores(study, benchmark.name, benchmark.definition)
    parts = {
        "code": code_digest(VERB, decided.uses),
        "packages": key_packages(),
        "decided_by": decided.decided_by,
        "answers": file_sha256(answers),
        "problems": file_sha256(problems),
    }
    return Job(benchmark, study.form_of(benchmark.name), tuple(asked), tuple(answered), scores, ahead.key_of(parts))


def check_answers(file: Path, answers: Sequence[Answer], problems: Sequence[Problem], benchmark: Benchmark) -> None:
    """Raises RecordError unless these are exactly k answers of `benchmark` to each of `problems`."""
    prompts = {problem.id: problem.prompt for problem in problems}
    seen: set[tuple[str, int]] = set()
    for number, answer in enumerate(answers, start=1):
        found = _misfit(answer, prompts, benchmark)
        if (answer.problem, answer.sample) in seen:
            found = f"sample {answer.sample} of problem '{answer.problem}' again, expected each sample once"
        if found:
            raise RecordError(f"{file}, line {number}: found {found}; generate again")
        seen.add((answer.problem, answer.sample))
    k = benchmark.samples_per_problem
    missing = [(problem.id, sample) for problem in problems for sample in range(k) if (problem.id, sample) not in seen]
    if missing:
        raise RecordError(
            f"{file}: found no sample {missing[0][1]} of problem '{missing[0][0]}' ({len(missing)} missing in all),"
            f" expected samples 0 to {k - 1} of {len(problems)} problems; generate again"
        )


def _misfit(answer: Answer, prompts: dict[str, str], benchmark: Benchmark) -> str | None:
    """Why this cannot be an answer to the benchmark: what was found and what was expected."""
    k = benchmark.samples_per_problem
    if answer.benchmark != benchmark.name:
        return f"an answer of benchmark '{answer.benchmark}', expected '{benchmark.name}'"
    if answer.problem not in prompts:
        return f"an answer to problem '{answer.problem}', expected one of the {len(prompts)} problems of the benchmark"
    if answer.prompt != prompts[answer.problem]:
        return f"an answer to {answer.prompt!r:.80}, expected the prompt of problem '{answer.problem}'"
    if not isinstance(answer.sample, int) or not 0 <= answer.sample < k:
        return f"sample {answer.sample!r:.20}, expected a number from 0 to {k - 1}"
    if not isinstance(answer.text, str) or answer.finish not in ("stop", "length"):
        return f"finish {answer.finish!r:.20}, expected a text that ended by 'stop' or 'length'"
    if not isinstance(answer.response_tokens, int) or answer.response_tokens < 0:
        return f"response_tokens {answer.response_tokens!r:.20}, expected a count"
    return None


def scores_text(job: Job) -> str:
    """The content of scores.json. Raises RuntimeError if lm-eval's numbers do not follow from its outcomes."""
    keep_offline()
    from chord.evaluation.stored import StoredAnswers

    results = measure(StoredAnswers(job.answers), job.benchmark, job.problems, job.form)
    tokens = {(answer.problem, answer.sample): answer.response_tokens for answer in job.answers}
    samples = range(job.benchmark.samples_per_problem)
    problems = [
        {
            "id": sample["doc"]["id"],
            "outcomes": sample["outcomes"],
            "response_tokens": [tokens[sample["doc"]["id"], number] for number in samples],
        }
        for sample in results["samples"][job.benchmark.task]
    ]
    scores = summarise(job.benchmark, sorted(problems, key=lambda problem: problem["id"]), results)
    return json.dumps(scores, indent=1, ensure_ascii=False) + "\n"


def summarise(benchmark: Benchmark, problems: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, Any]:
    """scores.json out of each problem's outcomes, beside lm-eval's own account of them."""
    import lm_eval

    k = benchmark.samples_per_problem
    right = [[outcome == Outcome.RIGHT.value for outcome in problem["outcomes"]] for problem in problems]
    shares = [sum(row) / k for row in right]
    counts = Counter(outcome for problem in problems for outcome in problem["outcomes"])
    scores = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "metric": benchmark.metric,
        "mean": statistics.fmean(shares),
        "se": statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else None,
        "n_problems": len(problems),
        "samples_per_problem": k,
        "pass_at_k": statistics.fmean(any(row) for row in right),
        "outcomes": {outcome.value: counts[outcome.value] for outcome in Outcome},
        "mean_response_tokens": statistics.fmean(count for problem in problems for count in problem["response_tokens"]),
    }
    told = {key: value for key, value in results["results"][benchmark.task].items() if key != "alias"}
    _compare(scores, told, results["versions"][benchmark.task])
    about = {
        "version": lm_eval.__version__,
        "task_hash": _task_hash(results["samples"][benchmark.task]),
        "results": told,
    }
    return scores | {"lm_eval": about, "problems": problems}


def _compare(scores: dict[str, Any], told: dict[str, Any], version: int | str) -> None:
    """Raises RuntimeError where lm-eval's account differs from ours."""
    k = scores["samples_per_problem"]
    pairs = {
        "mean": (scores["mean"], told[f"avg@{k},samples"]),
        "se": ("N/A" if scores["se"] is None else scores["se"], told[f"avg@{k}_stderr,samples"]),
        "pass_at_k": (scores["pass_at_k"], told[f"pass@{k},samples"]),
        "outcomes": (scores["outcomes"], told["outcomes,samples"]),
        "n_problems": (scores["n_problems"], told["sample_len"]),
        "version": (scores["version"], version),
    }
    for name, (ours, theirs) in pairs.items():
        numbers = isinstance(ours, float) and isinstance(theirs, float)
        if not (math.isclose(ours, theirs, abs_tol=1e-9) if numbers else ours == theirs):
            raise RuntimeError(f"{name}: lm-eval says {theirs}, but the outcomes it recorded give {ours}")


def _task_hash(samples: list[dict[str, Any]]) -> str:
    """lm-eval's hash of a task as it was asked: documents, prompts and targets (as its EvaluationTracker makes it)."""
    from lm_eval.utils import hash_string

    return hash_string(
        "".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Grade stored answers through lm-eval.")
    add_study(parser)
    parser.add_argument("--benchmark", required=True, help="name of the benchmark in the study")
    parser.add_argument("--answers", type=Path, required=True, help="answers.jsonl of the model to this benchmark")
    parser.add_argument("--problems", type=Path, required=True, help="problems of the benchmark, JSON lines")
    parser.add_argument("--scores", type=Path, required=True, help="JSON that is written")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the scores come from")
    shape = "NAME=ANSWERS=PROBLEMS=SCORES"
    parser.add_argument(
        "--ahead", type=ahead.sibling(shape), action="append", default=[], metavar=shape, help="see above"
    )
    return parser.parse_args()

"""Answers -> scores, through lm-eval and the grader that pays rewards. Needs no model; nothing is generated again.

chord score --study NAME --benchmark NAME --answers FILE --problems FILE --scores OUT --manifest OUT
    [--ahead NAME=ANSWERS=PROBLEMS=SCORES ...]

`--ahead` names other benchmarks of the same model, whose scores are made by this process too if their answers are there
(see chord.evaluation.ahead). The standard error is over problems: samples of one problem are not independent, so each
problem counts once, with the mean of its samples.
"""

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chord.config.project import project_of
from chord.config.study import AnswerForm
from chord.errors import RecordError
from chord.evaluation import ahead
from chord.evaluation.ahead import Result, Wanted
from chord.evaluation.benchmarks import Benchmark, keep_offline, measure, read_benchmark, read_problems
from chord.provenance.digest import code_digest
from chord.provenance.environment import key_packages
from chord.provenance.files import file_sha256
from chord.provenance.manifest import Manifest
from chord.records import Answer, Outcome, Problem, read_lines
from chord.steps import of_scores

VERB = "chord score"


def main() -> None:
    """Score one benchmark's answers; then those of its siblings that nobody has scored yet."""
    args = _arguments()
    study = project_of(args).study
    own = read_benchmark(args.root, study, args.benchmark)

    def wanted(benchmark: Benchmark, answers: Path, problems: Path, scores: Path) -> Wanted:
        asked, answered = read_problems(problems), read_lines(answers, Answer)
        check_answers(answers, answered, asked, benchmark)
        decided, form = of_scores(study, benchmark.name, benchmark.definition), study.form_of(benchmark.name)
        parts = {
            "code": code_digest(VERB, decided.uses),
            "packages": key_packages(),
            "decided_by": decided.decided_by,
            "answers": file_sha256(answers),
            "problems": file_sha256(problems),
        }
        return Wanted(scores, ahead.key_of(parts), lambda: Result(scores_text(benchmark, form, asked, answered)))

    def sibling(name: str, answers: Path, problems: Path, scores: Path) -> Wanted | None:
        return wanted(read_benchmark(args.root, study, name), answers, problems, scores) if answers.exists() else None

    with Manifest.recording(
        args.manifest,
        of_scores(study, own.name, own.definition),
        inputs={"answers": args.answers, "problems": args.problems},
        outputs={"scores": args.scores},
    ) as recording:
        if not ahead.make_own(wanted(own, args.answers, args.problems, args.scores), recording):
            return
    ahead.make_others(VERB, args.ahead, sibling)


def check_answers(file: Path, answers: Sequence[Answer], problems: Sequence[Problem], benchmark: Benchmark) -> None:
    """Raises RecordError unless these are exactly k answers of `benchmark` to each of `problems`."""
    k, name = benchmark.samples_per_problem, benchmark.name
    expected = f"expected samples 0 to {k - 1} of each of the {len(problems)} problems of '{name}', each once"
    prompts = {(problem.id, sample): problem.prompt for problem in problems for sample in range(k)}
    for number, answer in enumerate(answers, start=1):
        prompt = prompts.pop((answer.problem, answer.sample), None) if answer.benchmark == name else None
        if prompt is None:
            found = f"sample {answer.sample} of problem '{answer.problem}' of '{answer.benchmark}', {expected}"
        elif answer.prompt != prompt:
            found = f"an answer to {answer.prompt!r:.80}, expected the prompt of problem '{answer.problem}'"
        elif answer.finish not in ("stop", "length") or answer.response_tokens < 0:
            found = f"{answer.response_tokens} tokens that ended by {answer.finish!r:.20}, expected 'stop' or 'length'"
        else:
            continue
        raise RecordError(f"{file}, line {number}: found {found}; generate again")
    if prompts:
        (problem, sample), *_ = prompts
        found = f"no sample {sample} of problem '{problem}' ({len(prompts)} missing in all)"
        raise RecordError(f"{file}: found {found}, {expected}; generate again")


def scores_text(benchmark: Benchmark, form: AnswerForm, problems: Sequence[Problem], answers: Sequence[Answer]) -> str:
    """The content of scores.json. Raises RuntimeError if lm-eval's numbers do not follow from its outcomes."""
    keep_offline()
    from chord.evaluation.lm_eval_models import StoredAnswers

    results = measure(StoredAnswers(answers), benchmark, problems, form)
    tokens = {(answer.problem, answer.sample): answer.response_tokens for answer in answers}
    rows = [
        {
            "id": sample["doc"]["id"],
            "outcomes": sample["outcomes"],
            "response_tokens": [tokens[sample["doc"]["id"], k] for k in range(benchmark.samples_per_problem)],
        }
        for sample in results["samples"][benchmark.task]
    ]
    scores = summarize(benchmark, sorted(rows, key=lambda row: row["id"]), results)
    return json.dumps(scores, indent=1, ensure_ascii=False) + "\n"


def summarize(benchmark: Benchmark, problems: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, Any]:
    """scores.json out of each problem's outcomes, beside lm-eval's own account of them."""
    import lm_eval

    k, samples = benchmark.samples_per_problem, results["samples"][benchmark.task]
    right = [[outcome == Outcome.RIGHT.value for outcome in problem["outcomes"]] for problem in problems]
    shares = [sum(row) / k for row in right]
    counts = Counter(outcome for problem in problems for outcome in problem["outcomes"])
    scores = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "metric": f"avg@{k}",
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
    about = {"version": lm_eval.__version__, "task_hash": task_hash(samples), "results": told}
    return scores | {"lm_eval": about, "problems": problems}


def _compare(scores: dict[str, Any], told: dict[str, Any], version: int | str) -> None:
    """Raises RuntimeError where lm-eval's account differs from ours."""
    k = scores["samples_per_problem"]
    theirs: dict[str, Any] = {
        "mean": told[f"avg@{k},samples"],
        "se": told[f"avg@{k}_stderr,samples"],
        "pass_at_k": told[f"pass@{k},samples"],
        "outcomes": told["outcomes,samples"],
        "n_problems": told["sample_len"],
        "version": version,
    }
    for name, other in theirs.items():
        ours: Any = "N/A" if scores[name] is None else scores[name]
        numbers = isinstance(ours, float) and isinstance(other, float)
        if not (math.isclose(ours, other, abs_tol=1e-9) if numbers else ours == other):
            raise RuntimeError(f"{name}: lm-eval says {other}, but the outcomes it recorded give {ours}")


def task_hash(samples: list[dict[str, Any]]) -> str:
    """lm-eval's hash of a task as it was asked: documents, prompts and targets (as its EvaluationTracker makes it)."""
    from lm_eval.utils import hash_string

    hashes = ("doc_hash", "prompt_hash", "target_hash")
    return hash_string("".join(sample[name] for sample in samples for name in hashes))


def _arguments() -> argparse.Namespace:
    parser = ahead.parser_of(VERB, "Grade stored answers through lm-eval.", "NAME=ANSWERS=PROBLEMS=SCORES")
    parser.add_argument("--answers", type=Path, required=True, help="answers.jsonl of the model to this benchmark")
    parser.add_argument("--scores", type=Path, required=True, help="JSON that is written")
    return parser.parse_args()

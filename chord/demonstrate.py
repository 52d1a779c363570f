"""Problems -> one file of expert traces, or a random model's base corpus; each trace is known to be right.

chord demonstrate --study config/studies/demo.yaml --traces-of expert --problems FILE --traces FILE
    --counts FILE [--tokenizer MODEL_DIR] [--manifest FILE]

A scripted expert is a written-out solver (`chord.tasks.solver`), named so in every trace. Published traces stand in the
dataset of the problems, which chord prepare kept for having them. No grader is asked here, so that an edit of one
concerns no trace; whoever trains on traces may ask the one that pays rewards about them.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chord.config import uses
from chord.config.lock import Lock, read_lock, wanted_dataset
from chord.config.sets import corpus_of, expert_of, is_published, purpose
from chord.config.slices import of_traces
from chord.config.study import Study
from chord.provenance.files import UserError, write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Outcome, Problem, Trace, read_lines, write_lines
from chord.settings import ConfigError
from chord.tasks.corpus import divided, shuffled
from chord.tasks.solver import Solution, final_form, solve
from chord.tasks.studies import read_study

BASE_WRITER = "base corpus writer"
OUTSIDE = "a character outside the alphabet"
END_TOKEN = 1


@dataclass
class Written:
    """The traces of one file that passed the check, and how many were not kept and why."""

    traces: list[Trace] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """What a trace must pass: it fits, the policy can write it, and it ends in the answer that the solver found too."""

    study: Study
    tokens: Callable[[str], int]

    def misfit(self, response: str) -> str | None:
        """Why the policy could not have written the response, whatever it says."""
        alphabet = self.study.model.alphabet
        if self.tokens(response) > self.study.rollouts.max_response_tokens:
            return Outcome.TOO_LONG.value
        if alphabet is not None and not set(response) <= set(alphabet):
            return OUTSIDE
        return None

    def fault(self, problem: Problem, solution: Solution) -> str | None:
        """Why the solution is no trace for the problem."""
        misfit = self.misfit(solution.response)
        if misfit is not None:
            return misfit
        if solution.answer != problem.answer:
            return Outcome.WRONG.value
        if not solution.response.endswith(final_form(problem.answer, self.study.grading)):
            return Outcome.UNPARSABLE.value
        return None


def main() -> None:
    """Writes and checks everything, then puts it in files."""
    args = _arguments()
    root, study = args.study.resolve().parents[2], read_study(args.study)
    lock = read_lock(root, study.name)
    decided_by = of_traces(study, args.traces_of, lock)
    problems, of_hub = read_lines(args.problems, Problem), is_published(study, args.traces_of)
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            verb="chord demonstrate",
            step="data",
            uses=uses.of_traces(study, args.traces_of),
            decided_by=decided_by,
            inputs={"problems": args.problems} | ({"tokenizer": args.tokenizer} if args.tokenizer else {}),
            outputs={"traces": args.traces, "counts": args.counts},
            seeds={"data": study.data.seed} if purpose(args.traces_of) == "base" or of_hub else {},
        )
    with recording:
        measure, measured = measured_in(study, args.tokenizer)
        check = Check(study, measure)
        writing = WRITERS["published" if of_hub else "written"]
        written = whole(args.traces_of, writing(args, check, problems, root, lock), problems, args.problems)
        write_atomically(args.traces, write_lines(written.traces))
        told = counts(args.traces_of, written, writer(args.traces_of, study), measured)
        write_atomically(args.counts, json.dumps(told, indent=1) + "\n")
    print(f"{args.traces_of}: {len(written.traces)} traces kept, {written.rejected.total()} rejected", flush=True)


def writer(name: str, study: Study) -> str:
    """Who is named as the expert of these traces."""
    return BASE_WRITER if purpose(name) == "base" else expert_of(study, name).name


WRITERS = PlugPoint[Callable[[argparse.Namespace, Check, list[Problem], Path, Lock | None], Written]]("traces")


@WRITERS.entry("written")
def _written(
    args: argparse.Namespace, check: Check, problems: list[Problem], _root: Path, _lock: Lock | None
) -> Written:
    return write(args.traces_of, check.study, problems, check, args.problems)


def write(name: str, study: Study, problems: list[Problem], check: Check, file: Path) -> Written:
    """The traces that the written-out solver gives to the problems of one file."""
    if purpose(name) == "base":
        try:
            parts = divided(corpus_of(study, name), problems)
        except ValueError as error:
            raise UserError(f"{file}: {error} for the base corpus of the study; run chord prepare again") from None
        order = shuffled(len(parts), study.data.seed)
        wanted = [(parts[index][1], parts[index][0].style) for index in order]
    else:
        expert = expert_of(study, name)
        assert expert.source == "scripted"
        wanted = [(problem, expert.style) for problem in problems]
    return _traces(wanted, study, writer(name, study), check)


def whole(name: str, found: Written, problems: list[Problem], file: Path) -> Written:
    """`found`. Raises UserError if no trace is in it, or if a training prompt is left without its trace."""
    if not found.traces or (name == "aligned" and found.rejected):
        raise UserError(
            f"{file}: found {found.rejected.total()} of {len(problems)} problems without a right {name} trace"
            f" ({dict(found.rejected)}), expected {'one each' if name == 'aligned' else 'some'};"
            " change expert.style, rollouts.max_response_tokens or the task"
        )
    return found


@WRITERS.entry("published")
def _published(
    args: argparse.Namespace, check: Check, problems: list[Problem], root: Path, lock: Lock | None
) -> Written:
    """The traces of the problems that stand in the dataset which these were drawn from."""
    from chord.provenance.fetched import checked_files
    from chord.tasks.published import published
    from chord.tasks.rows import read_rows

    study, found = check.study, Written()
    dataset = study.tasks[problems[0].task].dataset
    files = checked_files(root, study.name, lock, wanted_dataset(study, dataset))
    columns = {name: study.datasets[dataset].columns[name] for name in ("question", "generations")}
    for trace in published(problems, read_rows(files, columns), study.data.seed, study.expert.name, args.problems):
        fault = check.misfit(trace.response)
        if fault is not None:
            found.rejected[fault] += 1
            continue
        found.traces.append(trace)
        found.tokens.append(check.tokens(trace.response))
    return found


def _traces(wanted: Iterable[tuple[Problem, str]], study: Study, expert: str, check: Check) -> Written:
    found = Written()
    seen: Counter[str] = Counter()
    for problem, style in wanted:
        try:
            solution = solve(problem, style, study.grading)
        except ConfigError as error:
            raise ConfigError(f"config/studies/{study.name}.yaml: {error}") from None
        fault = check.fault(problem, solution)
        if fault is not None:
            found.rejected[fault] += 1
            continue
        name = f"{problem.id}.{style}"
        seen[name] += 1
        again = f".{seen[name]}" if seen[name] > 1 else ""
        found.traces.append(Trace(name + again, problem.id, problem.prompt, solution.response, expert))
        found.tokens.append(check.tokens(solution.response))
    return found


def measured_in(study: Study, tokenizer: Path | None) -> tuple[Callable[[str], int], str]:
    """How many tokens a response has with its end token, and how that is known."""
    if study.model.source == "random":
        return lambda response: len(response) + END_TOKEN, "characters: each is one token of the study's own model"
    if tokenizer is None:
        return lambda response: len(response.encode()) + END_TOKEN, "bytes: no tokenizer was given; never too few"
    from transformers import AutoTokenizer

    from chord.tasks.prompts import response_ids

    if not (tokenizer / "tokenizer.json").is_file():
        raise UserError(f"{tokenizer}: found no tokenizer.json, expected the folder of the study's model")
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return lambda response: len(response_ids(loaded, response)), "tokens of the study's model"


def counts(name: str, written: Written, expert: str, measured: str) -> dict[str, Any]:
    """How many traces were kept, how many rejected and why, and how long they are."""
    return {
        "traces": name,
        "writer": expert,
        "kept": len(written.traces),
        "rejected": dict(sorted(written.rejected.items())),
        "response_tokens": {
            "mean": round(statistics.fmean(written.tokens), 3),
            "min": min(written.tokens),
            "median": statistics.median_low(written.tokens),
            "max": max(written.tokens),
        },
        "length_measured_in": measured,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord demonstrate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="config/studies/NAME.yaml")
    parser.add_argument(
        "--traces-of",
        required=True,
        help="expert, expert-NAME; aligned (of the training problems); base, base-NAME (of a start model)",
    )
    parser.add_argument("--problems", type=Path, required=True, help="the problems that they answer")
    parser.add_argument("--traces", type=Path, required=True, help="file for the traces")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was kept, rejected and why")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of the study's model, where it is not trained by the study"
    )
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()

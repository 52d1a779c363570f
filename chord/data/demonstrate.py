"""Problems -> one file of expert traces, or a random model's base corpus; each trace is known to be right.

chord demonstrate --study demo --traces-of expert --problems FILE --traces FILE
    --counts FILE [--tokenizer MODEL_DIR] [--manifest FILE]

A scripted expert is a written-out solver, named so in every trace. Published traces stand in the dataset of the
problems, which `chord prepare` kept for having them. No grader is asked here, so that an edit of one concerns no trace;
whoever trains on traces may ask the one that pays rewards about them.
"""

import argparse
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chord.config.project import add_study, project_of
from chord.config.sets import Lock, corpus_of, expert_of, is_published, part_sizes, purpose, task_sizes, wanted_dataset
from chord.config.study import BaseCorpus, CorpusPart, Grading, Study
from chord.errors import ConfigError, UserError
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Outcome, Problem, Trace, derive, read_lines, write_lines
from chord.steps import of_traces

# --- solver --------------------------------------------------------------------------------------

# The scripted expert: a written-out solver. No model wrote these answers, and every record of them says so.
#
# Styles for 178+445 with grader marked-text, in which a step is the digits of one place, the carry, and their sum, from
# right to left:
# terse      =623
# worked     >850:13,741:12,141:6=623
# checked    >850:13,741:12,141:6;850:13,741:12,141:6=623
# Styles for 12+35-8 with grader last-number, in which a step is one sum or difference (with two terms there is one
# step, so worked is terse); with grader math the last number is in a box:
# terse      12 + 35 - 8 = 39
# worked     12 + 35 = 47, 47 - 8 = 39
# checked    12 + 35 = 47, 47 - 8 = 39; 12 + 35 = 47, 47 - 8 = 39
# sentences  12 + 30 = 42. 42 + 5 = 47. 47 - 8 = 39. The answer is 39

CHAIN = re.compile(r"[0-9]+([+-][0-9]+)+")


class Solution(NamedTuple):
    """What the solver found by itself, and how it says so."""

    answer: str
    response: str


def solve(problem: Problem, style: str, grading: Grading) -> Solution:
    """The expert's own answer and its response, which ends in the `final_form` of that answer.

    Sums and differences are worked out here from their terms, words are reversed here; for other tasks the answer is
    the generator's. Raises ConfigError where `style` needs steps and there are none.
    """
    expression, in_words = str(problem.source.get("expression", "")), grading.grader != "marked-text"
    before: str | None = "The answer is" if in_words else ""
    if CHAIN.fullmatch(expression):
        terms = re.findall(r"[+-]?[0-9]+", expression)
        before, answer = _in_words(terms, style) if in_words else _in_digits(terms, style)
    else:
        before = before if style == "terse" else None
        reverse = problem.source.get("dataset") == "spell_backward"
        answer = str(problem.source["word"])[::-1] if reverse else problem.answer
    if before is None:
        unread = style == "sentences" and CHAIN.fullmatch(expression)
        why = f"grader {grading.grader} reads no sentences" if unread else "not a sum"
        raise ConfigError(f"found style {style} for {problem.id} of task '{problem.task}', expected terse: {why}")
    return Solution(answer, before + final_form(answer, grading))


def final_form(answer: str, grading: Grading) -> str:
    """How every response to a problem with this answer ends."""
    match grading.grader:
        case "marked-text":
            return f"{grading.mark}{answer}"
        case "math":
            return f" \\boxed{{{answer}}}"
        case "last-number":
            return f" {answer}"
        case other:
            calls = other in ("tool-call", "bfcl")
            wanted = "an expert that calls tools" if calls else "marked-text, math or last-number"
            raise ConfigError(f"found expert.source scripted with grader {other}, expected {wanted}")


def _in_digits(terms: list[str], style: str) -> tuple[str | None, str]:
    """What stands before the mark, and the answer; None where the style needs steps and the terms are no sum."""
    if any(term.startswith("-") for term in terms):
        return ("" if style == "terse" else None), str(sum(map(int, terms)))
    steps, answer = _added([[int(digit) for digit in reversed(term.removeprefix("+"))] for term in terms])
    worked = ",".join(steps)
    return {"terse": "", "worked": f">{worked}", "checked": f">{worked};{worked}"}.get(style), answer


def _added(terms: list[list[int]]) -> tuple[list[str], str]:
    """The steps and the sum of terms given as digits from right to left; shorter terms are filled up with zeros."""
    steps: list[str] = []
    written, carry = "", 0
    for place in range(max(map(len, terms))):
        digits = [term[place] if place < len(term) else 0 for term in terms]
        total = sum(digits) + carry
        steps.append("".join(map(str, [*digits, carry])) + f":{total}")
        written, carry = str(total % 10) + written, total // 10
    return steps, (str(carry) if carry else "") + written


def _in_words(terms: list[str], style: str) -> tuple[str, str]:
    """What stands before the last number, which is the answer; terms after the first have their sign."""
    if style == "sentences":
        return _in_sentences(terms)
    total, steps = int(terms[0]), []
    for term in terms[1:]:
        step = f"{total} {term[0]} {term[1:]} ="
        total += int(term)
        steps.append(f"{step} {total}")
    answer = str(total)
    at_once = " ".join([terms[0], *(f"{term[0]} {term[1:]}" for term in terms[1:])])
    worked = ", ".join(steps)
    texts = {"terse": f"{at_once} = {answer}", "worked": worked, "checked": f"{worked}; {worked}"}
    return texts[style].removesuffix(f" {answer}"), answer


def _in_sentences(terms: list[str]) -> tuple[str, str]:
    """The same with one place of one term a sentence, from the left and the highest place; zeros are passed over."""
    total, steps = int(terms[0]), []
    for term in terms[1:]:
        places = [int(digit) * 10**place for place, digit in zip(range(len(term) - 2, -1, -1), term[1:], strict=True)]
        for part in [part for part in places if part] or [0]:
            after = total + part if term[0] == "+" else total - part
            steps.append(f"{total} {term[0]} {part} = {after}.")
            total = after
    return " ".join([*steps, "The answer is"]), str(total)


# --- corpus --------------------------------------------------------------------------------------

# How the base corpus is divided: so many texts a part, in an order of its own. Knows no generator and no solver.


def divided(corpus: BaseCorpus, problems: Sequence[Problem]) -> list[tuple[CorpusPart, Problem]]:
    """Every problem with the part whose text it becomes. Raises ValueError if a task has too few or too many."""
    waiting: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        waiting[problem.task].append(problem)
    found = {task: len(of_task) for task, of_task in waiting.items()}
    needed = {task: size for task, size in task_sizes(corpus).items() if size}
    if found != needed:
        raise ValueError(f"found {found}, expected {needed} problems")
    rows: list[tuple[CorpusPart, Problem]] = []
    for part, size in zip(corpus.parts, part_sizes(corpus), strict=True):
        rows += [(part, problem) for problem in waiting[part.task][:size]]
        del waiting[part.task][:size]
    return rows


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order decided by `seed` alone, the same in every version of Python."""
    return sorted(range(count), key=lambda index: derive(seed, "base corpus order", index))


# --- demonstrate ---------------------------------------------------------------------------------

# Problems -> one file of expert traces, or a random model's base corpus; each trace is known to be right.
#
# chord demonstrate --study demo --traces-of expert --problems FILE --traces FILE
#     --counts FILE [--tokenizer MODEL_DIR] [--manifest FILE]
#
# A scripted expert is a written-out solver (`chord.data.demonstrate`), named so in every trace. Published traces
# stand in the
# dataset of the problems, which chord prepare kept for having them. No grader is asked here, so that an edit of one
# concerns no trace; whoever trains on traces may ask the one that pays rewards about them.

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
    project = project_of(args)
    root, study = args.root, project.study
    lock = project.lock
    decided = of_traces(study, args.traces_of, lock)
    problems, of_hub = read_lines(args.problems, Problem), is_published(study, args.traces_of)
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            decided,
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
    from chord.data.fetch import checked_files
    from chord.data.hub_rows import published, read_rows

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

    from chord.data.prompts import response_ids

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
    add_study(parser)
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

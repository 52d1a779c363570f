"""Problems -> one file of expert traces, or a random model's base corpus; each trace is known to be right.

chord demonstrate --study demo --traces-of expert --problems FILE --traces FILE
    --counts FILE [--tokenizer MODEL_DIR] [--manifest FILE]
chord ask-expert (the same) --expert MODEL_DIR --state DIR [--threads N]

A scripted expert is a written-out solver, named so in every trace. Published traces stand in the dataset of the
problems, which `chord prepare` kept for having them. A served expert is a language model, see `ask_expert`. Only its
answers are graded here, so that an edit of a grader concerns no other trace.
"""

import argparse
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chord.config.project import add_study, project_of
from chord.config.sets import (
    Lock,
    any_seed,
    asked_expert,
    corpus_of,
    expert_of,
    part_sizes,
    purpose,
    seed_of,
    task_sizes,
    wanted_dataset,
)
from chord.config.study import BaseCorpus, CorpusPart, Grading, Study
from chord.errors import ConfigError, UserError
from chord.provenance.cli import Number
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Outcome, Problem, Trace, read_lines, write_lines
from chord.settings import derive
from chord.steps import of_traces

BASE_WRITER = "base corpus writer"
OUTSIDE = "a character outside the alphabet"
END_TOKEN = 1
SLIP = 5  # how far a wrong result of a step is from the right one, at most
SCRIPTED_REMEDY = "expert.style, rollouts.max_response_tokens or the task"
SERVED_REMEDY = "expert.samples_per_problem, expert.max_response_tokens, expert.prompt, or the expert"


@dataclass(frozen=True)
class Work:
    """Traces that are to be written: their name, and the problems that they answer."""

    name: str
    problems: list[Problem]
    study: Study
    lock: Lock | None
    args: argparse.Namespace
    tokens: Callable[[str], int]  # of a response, for the policy, with the end token


@dataclass
class Written:
    """The traces that are kept, with their lengths; why others are not; what else the counts and the manifest say."""

    traces: list[Trace] = field(default_factory=list[Trace])
    tokens: list[int] = field(default_factory=list[int])
    rejected: Counter[str] = field(default_factory=Counter[str])
    counts: dict[str, Any] = field(default_factory=dict[str, Any])
    recorded: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, trace: Trace, tokens: int, fault: str | None) -> None:
        """Keep the trace, or count its fault."""
        if fault is not None:
            self.rejected[fault] += 1
            return
        self.traces.append(trace)
        self.tokens.append(tokens)


WRITERS = PlugPoint[Callable[[Work], Written]]("traces")


def main() -> None:
    """Writes and checks everything, then puts it in files."""
    args = _arguments()
    project, name = project_of(args), args.traces_of
    study = project.study
    decided = of_traces(study, name, project.lock)
    problems, kind = read_lines(args.problems, Problem), _kind(study, args)
    read = {"problems": args.problems, "expert": args.expert, "tokenizer": args.tokenizer}
    is_drawn = kind != "written" or purpose(name) == "base"
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            decided,
            inputs={flag: path for flag, path in read.items() if path},
            outputs={"traces": args.traces, "counts": args.counts},
            seeds={"data": seed_of(study, name)} if is_drawn else {},
        )
    with recording as record:
        tokens, measured = measured_in(study, args.tokenizer)
        written = WRITERS[kind](Work(name, problems, study, project.lock, args, tokens))
        if not written.traces or (any_seed(name) == "aligned" and written.rejected):
            raise UserError(
                f"{args.problems}: found {written.rejected.total()} of {len(problems)} problems without a right {name}"
                f" trace ({dict(written.rejected)}), expected {'one each' if any_seed(name) == 'aligned' else 'some'};"
                f" change {SERVED_REMEDY if kind == 'served' else SCRIPTED_REMEDY}"
            )
        if record:
            record.extra |= written.recorded
        counts = {
            "traces": name,
            "writer": BASE_WRITER if purpose(name) == "base" else expert_of(study, name).name,
            "kept": len(written.traces),
            "rejected": dict(sorted(written.rejected.items())),
            "response_tokens": lengths(written.tokens),
            **written.counts,
            "length_measured_in": measured,
        }
        write_atomically(args.traces, write_lines(written.traces))
        write_atomically(args.counts, json.dumps(counts, indent=1) + "\n")
    print(f"{name}: {len(written.traces)} traces kept, {written.rejected.total()} rejected", flush=True)


def _kind(study: Study, args: argparse.Namespace) -> str:
    """Who of WRITERS writes the traces. Raises UserError where the options are those of another."""
    name, asks = args.traces_of, bool(args.expert and args.state)
    source = "scripted" if purpose(name) == "base" else expert_of(study, name).source
    if asks and source != "served":
        asked = asked_expert(study, name)
        key = "expert" if asked == "expert" else f"other_experts.{asked.removeprefix('expert-')}.expert"
        raise ConfigError(
            f"config/studies/{study.name}.yaml: {key}.source is {source}, expected served; other experts, and corpora,"
            " are written by chord demonstrate"
        )
    if source == "served" and not (asks and (args.tokenizer or study.model.source == "random")):
        raise UserError(
            f"--expert, --state, --tokenizer: found one of them missing, expected all for {name} traces by a served"
            " expert; run chord ask-expert"
        )
    return "written" if source == "scripted" else source


def measured_in(study: Study, tokenizer: Path | None) -> tuple[Callable[[str], int], str]:
    """How many tokens a response has with its end token, and how that is known."""
    if study.model.source == "random":
        return lambda response: len(response) + END_TOKEN, "characters: each is one token of the study's own model"
    if tokenizer is None:
        return lambda response: len(response.encode()) + END_TOKEN, "bytes: no tokenizer was given; never too few"
    from chord.data.prompts import load_tokenizer, response_ids

    loaded = load_tokenizer(tokenizer)
    return lambda response: len(response_ids(loaded, response)), "tokens of the study's model"


def lengths(tokens: Sequence[int]) -> dict[str, float] | None:
    """Mean, least, median and most; None of nothing."""
    if not tokens:
        return None
    middle = statistics.median_low(tokens)
    return {"mean": round(statistics.fmean(tokens), 3), "min": min(tokens), "median": middle, "max": max(tokens)}


def misfit(study: Study, response: str, tokens: int) -> str | None:
    """Why the policy could not have written the response, whatever it says."""
    alphabet = study.model.alphabet
    if tokens > study.rollouts.max_response_tokens:
        return Outcome.TOO_LONG.value
    return OUTSIDE if alphabet is not None and not set(response) <= set(alphabet) else None


@WRITERS.entry("served")
def _served(work: Work) -> Written:
    from chord.data.ask_expert import served

    return served(work)


@WRITERS.entry("published")
def _published(work: Work) -> Written:
    """The traces of the problems that stand in the dataset which these were drawn from."""
    from chord.data.fetch import checked_files
    from chord.data.hub_rows import published, read_rows

    study, written = work.study, Written()
    dataset = study.tasks[work.problems[0].task].dataset
    files = checked_files(work.args.root, study.name, work.lock, wanted_dataset(study, dataset))
    columns = {name: study.datasets[dataset].columns[name] for name in ("question", "generations")}
    rows = read_rows(files, columns)
    for trace in published(work.problems, rows, study.data.seed, study.expert.name, work.args.problems):
        tokens = work.tokens(trace.response)
        written.add(trace, tokens, misfit(study, trace.response, tokens))
    return written


@WRITERS.entry("written")
def _written(work: Work) -> Written:
    try:
        return write(work.name, work.study, work.problems, work.tokens)
    except ValueError as error:
        raise UserError(f"{work.args.problems}: {error} for the base corpus; run chord prepare again") from None


def write(name: str, study: Study, problems: list[Problem], tokens: Callable[[str], int]) -> Written:
    """The traces that the written-out solver gives to the problems; those of the base corpus in a mixed order.

    Raises ConfigError for a style that a problem cannot be answered in, and ValueError as `divided` does.
    """
    if purpose(name) == "base":
        parts = divided(corpus_of(study, name), problems)
        seed, writer = seed_of(study, name), BASE_WRITER
        wanted = [
            (parts[at][1], parts[at][0].style, Slips.of(parts[at][0], seed, at)) for at in shuffled(len(parts), seed)
        ]
    else:
        expert = expert_of(study, name)
        assert expert.source == "scripted"
        wanted, writer = [(problem, expert.style, None) for problem in problems], expert.name
    written, seen = Written(), Counter[str]()
    for problem, style, slips in wanted:
        try:
            solution = solve(problem, style, study.grading, slips)
        except ConfigError as error:
            raise ConfigError(f"config/studies/{study.name}.yaml: {error}") from None
        size = tokens(solution.response)
        fault = misfit(study, solution.response, size) if slips else fault_of(study, problem, solution, size)
        own = f"{problem.id}.{style}"
        seen[own] += fault is None
        again = f".{seen[own]}" if seen[own] > 1 else ""
        written.add(Trace(own + again, problem.id, problem.prompt, solution.response, writer), size, fault)
    return written


# --- base corpus ---------------------------------------------------------------------------------


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


class Slips(NamedTuple):
    """Wrong results in the worked sums of one text: each step's with probability `share`, by a draw of its own.

    A wrong result is drawn evenly from those within `SLIP` of the right one. The text goes on from it, so that its
    digit and its carry stand in the answer.
    """

    share: float
    seed: int

    @classmethod
    def of(cls, part: CorpusPart, seed: int, place: int) -> "Slips | None":
        """Those of the text at this place of a corpus; None where the part has none."""
        return cls(part.slips, derive(seed, "slips", place)) if part.slips else None

    def result(self, total: int, step: int) -> int:
        """What the text says at this step in the place of `total`, a sum of two digits and a carry."""
        if derive(self.seed, "slips here", step) >= self.share * 2**64:
            return total
        wrong = [other for other in range(max(0, total - SLIP), min(19, total + SLIP) + 1) if other != total]
        return wrong[derive(self.seed, "slips to", step) % len(wrong)]


# --- the scripted expert -------------------------------------------------------------------------

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


def fault_of(study: Study, problem: Problem, solution: Solution, tokens: int) -> str | None:
    """Why the solution is no trace for the problem; None if it fits and ends in the right answer."""
    if found := misfit(study, solution.response, tokens):
        return found
    if solution.answer != problem.answer:
        return Outcome.WRONG.value
    ends_well = solution.response.endswith(final_form(problem.answer, study.grading))
    return None if ends_well else Outcome.UNPARSABLE.value


def solve(problem: Problem, style: str, grading: Grading, slips: Slips | None = None) -> Solution:
    """The expert's own answer and its response, which ends in the `final_form` of that answer.

    Sums and differences are worked out here from their terms, words are reversed here; for other tasks the answer is
    the generator's. Raises ConfigError where `style` needs steps and there are none.
    """
    expression, in_words = str(problem.source.get("expression", "")), grading.grader != "marked-text"
    is_chain = CHAIN.fullmatch(expression)
    if is_chain:
        terms = re.findall(r"[+-]?[0-9]+", expression)
        before, answer = _in_words(terms, style) if in_words else _in_digits(terms, style, slips)
    else:
        before = None if style != "terse" else "The answer is" if in_words else ""
        reverse = problem.source.get("dataset") == "spell_backward"
        answer = str(problem.source["word"])[::-1] if reverse else problem.answer
    if before is None:
        why = f"grader {grading.grader} reads no sentences" if style == "sentences" and is_chain else "not a sum"
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


def _in_digits(terms: list[str], style: str, slips: Slips | None = None) -> tuple[str | None, str]:
    """What stands before the mark, and the answer; None where the style needs steps and the terms are no sum."""
    if any(term.startswith("-") for term in terms):
        return ("" if style == "terse" else None), str(sum(map(int, terms)))
    numbers = [term.removeprefix("+") for term in terms]
    width = max(map(len, numbers))
    steps, written, carry = list[str](), "", 0
    for step, digits in enumerate(zip(*(number.zfill(width)[::-1] for number in numbers), strict=True)):
        total = sum(map(int, digits)) + carry
        total = slips.result(total, step) if slips else total
        steps.append(f"{''.join(digits)}{carry}:{total}")
        written, carry = str(total % 10) + written, total // 10
    worked = ",".join(steps)
    before = {"terse": "", "worked": f">{worked}", "checked": f">{worked};{worked}"}.get(style)
    return before, str(int(f"{carry}{written}"))


def _in_words(terms: list[str], style: str) -> tuple[str, str]:
    """What stands before the last number, which is the answer; terms after the first have their sign.

    A sentence adds one place of one term, from the left and the highest place; zeros are passed over.
    """
    total, steps = int(terms[0]), list[str]()
    signed = [(term[0], term[1:]) for term in terms[1:]]
    for sign, digits in signed:
        places = zip(digits, range(len(digits) - 1, -1, -1), strict=True)
        parts = [digit + "0" * place for digit, place in places if digit != "0"] or ["0"]
        for part in parts if style == "sentences" else [digits]:
            after = total + int(sign + part)
            steps.append(f"{total} {sign} {part} = {after}")
            total = after
    if style == "sentences":
        return " ".join([*(f"{step}." for step in steps), "The answer is"]), str(total)
    worked, at_once = ", ".join(steps), " ".join([terms[0], *(f"{sign} {digits}" for sign, digits in signed)])
    texts = {"terse": f"{at_once} = {total}", "worked": worked, "checked": f"{worked}; {worked}"}
    return texts[style].removesuffix(f" {total}"), str(total)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_study(parser)
    named = "expert, expert-NAME; aligned (of the training problems); base, base-NAME (of a start model)"
    parser.add_argument("--traces-of", required=True, help=named)
    for flag, required, what in (
        ("problems", True, "the problems that they answer"),
        ("traces", True, "file for the traces"),
        ("counts", True, "file for what was kept, rejected and why"),
        ("tokenizer", False, "folder of the study's model, where it is not trained by the study"),
        ("manifest", False, "file for what this command read, ran on and wrote"),
        ("expert", False, "of a served expert: folder of its model and tokenizer"),
        ("state", False, "of a served expert: folder for finished shards, with which a run goes on, and logs"),
    ):
        parser.add_argument(f"--{flag}", type=Path, required=required, help=what)
    parser.add_argument("--threads", action=Number, default=1, help="of the processor, for each replica on a CPU")
    return parser.parse_args()

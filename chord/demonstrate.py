"""Problems -> expert traces, and a random model's base corpus; each checked by the grader that pays rewards.

python -m chord.demonstrate --study config/studies/demo.yaml --problems DIR --traces DIR --counts FILE
    [--tokenizer MODEL_DIR] [--manifest FILE]

The expert is scripted: a written-out solver (`chord.tasks.solver`), named so in every trace.
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

from chord.config import ConfigError, Study
from chord.provenance.files import UserError, run_verb, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import Outcome, Problem, Trace, read_lines, write_lines
from chord.tasks.corpus import divided, shuffled
from chord.tasks.graders import Grader
from chord.tasks.solver import solve
from chord.tasks.studies import read_study

BASE_WRITER = "base corpus writer"
OUTSIDE = "a character outside the alphabet"
END_TOKEN = 1


@dataclass
class Written:
    """The traces of one file that the grader found right, and how many were not kept and why."""

    traces: list[Trace] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """What a trace must pass: it fits, the policy can write it, and the grader that pays rewards finds it right."""

    study: Study
    grader: Grader
    tokens: Callable[[str], int]

    def fault(self, problem: Problem, response: str) -> str | None:
        """Why the response is no trace for the problem."""
        alphabet = self.study.model.alphabet
        if self.tokens(response) > self.study.rollouts.max_response_tokens:
            return Outcome.TOO_LONG.value
        if alphabet is not None and not set(response) <= set(alphabet):
            return OUTSIDE
        outcome = self.grader.grade(response, "stop", problem.answer)
        return None if outcome is Outcome.RIGHT else outcome.value


def main() -> None:
    """Writes and checks everything, then puts it in files."""
    args = _arguments()
    study = read_study(args.study)
    names = {"expert": "expert"} | ({"aligned": "train"} if study.data.aligned_traces else {})
    names |= {"base": "base"} if study.base_corpus else {}
    inputs = {source: args.problems / f"{source}.jsonl" for source in names.values()}
    problems = {source: read_lines(file, Problem) for source, file in inputs.items()}
    outputs = {name: args.traces / f"{name}.jsonl" for name in names}
    recording = nullcontext()
    if args.manifest:
        tokenizer = {"tokenizer": args.tokenizer} if args.tokenizer else {}
        recording = Manifest.recording(
            args.manifest,
            verb="chord.demonstrate",
            inputs={"study": args.study, **inputs, **tokenizer},
            outputs={**outputs, "counts": args.counts},
            seeds={"data": study.data.seed},
        )
    with recording:
        measure, measured = measured_in(study, args.tokenizer)
        with Grader(study.grading) as grader:
            check = Check(study, grader, measure)
            written = {
                name: write(name, study, problems[source], check, inputs[source]) for name, source in names.items()
            }
        texts = {outputs[name]: write_lines(found.traces) for name, found in written.items()}
        for file, text in texts.items():
            write_atomically(file, text)
        write_atomically(args.counts, json.dumps(counts(study, written, measured), indent=1) + "\n")
    for name, found in written.items():
        print(f"{name}: {len(found.traces)} traces kept, {found.rejected.total()} rejected", flush=True)


def write(name: str, study: Study, problems: list[Problem], check: Check, file: Path) -> Written:
    """The traces of one file. Raises UserError if none is right, or if a training prompt is left without its trace."""
    if name == "base":
        assert study.base_corpus is not None
        try:
            parts = divided(study.base_corpus, problems)
        except ValueError as error:
            raise UserError(f"{file}: {error} for the base corpus of the study; run chord.prepare again") from None
        order = shuffled(len(parts), study.data.seed)
        wanted = [(parts[index][1], parts[index][0].style) for index in order]
        found = _traces(wanted, study, BASE_WRITER, check)
    else:
        found = _traces([(problem, study.expert.style) for problem in problems], study, study.expert.name, check)
    if not found.traces or (name == "aligned" and found.rejected):
        raise UserError(
            f"{file}: found {found.rejected.total()} of {len(problems)} problems without a right {name} trace"
            f" ({dict(found.rejected)}), expected {'one each' if name == 'aligned' else 'some'};"
            " change expert.style, rollouts.max_response_tokens or the task"
        )
    return found


def _traces(wanted: Iterable[tuple[Problem, str]], study: Study, expert: str, check: Check) -> Written:
    found = Written()
    seen: Counter[str] = Counter()
    for problem, style in wanted:
        try:
            response = solve(problem, style, study.grading)
        except ConfigError as error:
            raise ConfigError(f"config/studies/{study.name}.yaml: {error}") from None
        fault = check.fault(problem, response)
        if fault is not None:
            found.rejected[fault] += 1
            continue
        name = f"{problem.id}.{style}"
        seen[name] += 1
        again = f".{seen[name]}" if seen[name] > 1 else ""
        found.traces.append(Trace(name + again, problem.id, problem.prompt, response, expert))
        found.tokens.append(check.tokens(response))
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


def counts(study: Study, written: dict[str, Written], measured: str) -> dict[str, Any]:
    """How many traces were kept, how many rejected and why, and how long they are."""
    return {
        "study": study.name,
        "grader": study.grading.grader,
        "length_measured_in": measured,
        "files": {
            name: {
                "writer": BASE_WRITER if name == "base" else study.expert.name,
                "kept": len(found.traces),
                "rejected": dict(sorted(found.rejected.items())),
                "response_tokens": {
                    "mean": round(statistics.fmean(found.tokens), 3),
                    "min": min(found.tokens),
                    "median": statistics.median_low(found.tokens),
                    "max": max(found.tokens),
                },
            }
            for name, found in written.items()
        },
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord.demonstrate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="config/studies/NAME.yaml")
    parser.add_argument("--problems", type=Path, required=True, help="folder that chord.prepare filled")
    parser.add_argument("--traces", type=Path, required=True, help="folder for expert, aligned, base .jsonl")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was kept, rejected and why")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of the study's model, where it is not trained by the study"
    )
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord.demonstrate", main)

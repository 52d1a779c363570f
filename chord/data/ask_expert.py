"""Problems -> expert traces by a language model that vLLM serves; each is right, as the study's grader has it.

chord ask-expert --study NAME --traces-of expert --problems FILE --expert MODEL_DIR
    --tokenizer MODEL_DIR --state DIR --traces FILE --counts FILE --manifest FILE

Every problem is asked several times, each time under a seed of its own. What was answered is kept in `--state`, shard
by shard: a run that was killed goes on after the last finished shard, and another grader asks nothing again.
"""

import argparse
import hashlib
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chord.config.project import add_study, project_of
from chord.config.sets import asked_expert, expert_of
from chord.config.study import ExpertServed, Study
from chord.data import demonstrate
from chord.errors import ConfigError, UserError
from chord.grading.graders import Grader
from chord.provenance.cli import Number
from chord.provenance.files import tree_hash, write_atomically
from chord.provenance.lease import Lease
from chord.provenance.manifest import Manifest
from chord.records import Answer, Outcome, Problem, Trace, derive, read_lines, write_lines
from chord.sampling.protocol import PromptError, Request, Sampled, check_prompts
from chord.sampling.vllm_server import (
    NAME,
    SEEDS,
    Endpoint,
    Settings,
    check_model,
    check_options,
    complete,
    configured_ends_in,
    serving,
    vllm_version,
)
from chord.steps import of_traces

VERB = "chord ask-expert"
OUTSIDE = "a character outside the alphabet"
TOO_LONG = "too long for the policy"
CUT = "cut at the token limit"

# --- shards --------------------------------------------------------------------------------------

# Answers in parts that are never made twice. Beside shard-N-KEY.jsonl lies shard-N-KEY.json with its hash. Both are
# written whole, the second one last, and no workflow removes them.

KEY_DIGITS = 16


@dataclass(frozen=True)
class Shard:
    """A part of the work: its number, and the key of all that decides its answers."""

    number: int
    key: str

    @property
    def name(self) -> str:
        """Without the ending."""
        return f"shard-{self.number:05d}-{self.key[:KEY_DIGITS]}"


def shard_of(number: int, asked: Sequence[Any], alike: Mapping[str, Any]) -> Shard:
    """The shard in which `asked` is answered; `alike` is what decides the answers of all shards."""
    text = json.dumps([dict(alike), list(asked)], sort_keys=True)
    return Shard(number, hashlib.sha256(text.encode()).hexdigest())


def finished(folder: Path, shard: Shard) -> list[Answer] | None:
    """The answers of the shard; None if it is not there, or not whole, or was altered."""
    content, note = folder / f"{shard.name}.jsonl", folder / f"{shard.name}.json"
    try:
        told = json.loads(note.read_bytes())
        matches = (told["key"], told["sha256"]) == (shard.key, hashlib.sha256(content.read_bytes()).hexdigest())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return read_lines(content, Answer) if matches else None


def finish(folder: Path, shard: Shard, answers: Sequence[Answer], about: Mapping[str, Any]) -> None:
    """Put the shard down; from here on it is never asked for again. `about` tells who made it and how."""
    text = write_lines(answers)
    write_atomically(folder / f"{shard.name}.jsonl", text)
    told = {"key": shard.key, "sha256": hashlib.sha256(text.encode()).hexdigest(), "answers": len(answers), **about}
    write_atomically(folder / f"{shard.name}.json", json.dumps(told, indent=1) + "\n")


# --- answers that are verified -------------------------------------------------------------------

NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Judged:
    """One answer: what the grader says, its length in the policy's tokens, and why the policy could not write it."""

    answer: Answer
    outcome: Outcome
    tokens: int
    misfit: str | None

    @property
    def name(self) -> str:
        """That of its trace."""
        return f"{self.answer.problem}.sample-{self.answer.sample}"

    @property
    def is_verified(self) -> bool:
        """Right, and within what the policy can write."""
        return self.outcome is Outcome.RIGHT and self.misfit is None


def kept(judged: Sequence[Judged], keep: Literal["best", "random"], seed: int) -> Judged | None:
    """The one answer to a problem that becomes its trace; None if none is verified.

    ours: the best is the shortest, in the policy's tokens, and of equally short ones the first. The paper does not say
    how its one trace for each problem was chosen. `random` is drawn by (seed, problem) alone.
    """
    verified = [one for one in judged if one.is_verified]
    if not verified:
        return None
    if keep == "best":
        return min(verified, key=lambda one: (one.tokens, one.answer.sample))
    return verified[derive(seed, "keep", verified[0].answer.problem) % len(verified)]


def why_none(judged: Sequence[Judged]) -> str:
    """For a problem without a trace: what stood in the way of its answers most often."""
    reasons = Counter(one.misfit if one.outcome is Outcome.RIGHT else one.outcome.value for one in judged)
    return str(min(reasons, key=lambda reason: (-reasons[reason], str(reason))))


def difficulty(problem: Problem) -> str:
    """How hard the problem is, as far as its source tells; else the length of its prompt."""
    source = problem.source
    if "difficulty" in source:
        return f"difficulty {source['difficulty']}"
    if "expression" in source and (numbers := NUMBER.findall(source["expression"])):
        return f"{len(numbers)} terms of up to {max(map(len, numbers))} digits"
    if "word" in source:
        return f"{len(source['word'])} letters"
    return f"prompts of up to {1 << (len(problem.prompt) - 1).bit_length()} characters"


def yields(judged: Mapping[str, Sequence[Judged]], problems: Sequence[Problem]) -> dict[str, Any]:
    """For each task and difficulty: problems, those with a verified answer, samples by outcome, and their lengths."""
    groups: defaultdict[str, list[Sequence[Judged]]] = defaultdict(list)
    for problem in problems:
        groups[f"{problem.task}: {difficulty(problem)}"].append(judged[problem.id])
    return {name: _yield(group) for name, group in sorted(groups.items())}


def _yield(group: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    samples = [one for of_problem in group for one in of_problem]
    verified = [one for one in samples if one.is_verified]
    unfit = Counter(one.misfit for one in samples if one.outcome is Outcome.RIGHT and one.misfit)
    return {
        "problems": len(group),
        "with_a_verified_answer": sum(any(one.is_verified for one in of_problem) for of_problem in group),
        "samples": len(samples),
        "verified": len(verified),
        "yield": round(len(verified) / len(samples), 4),
        "outcomes": dict(sorted(Counter(one.outcome.value for one in samples).items())),
        "right_but_unfit": dict(sorted(unfit.items())),
        "tokens": lengths([one.tokens for one in samples]),
        "tokens_of_verified": lengths([one.tokens for one in verified]),
    }


def lengths(tokens: Sequence[int]) -> dict[str, float] | None:
    """Mean, least, median and most; None of nothing."""
    if not tokens:
        return None
    middle = statistics.median_low(tokens)
    return {"mean": round(statistics.fmean(tokens), 3), "min": min(tokens), "median": middle, "max": max(tokens)}


# --- asking --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A shard, and what is asked in it: of each problem, all samples after each other."""

    shard: Shard
    asked: tuple[tuple[Problem, int], ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Asking:
    """What every question has alike: who is asked, how, and in which words. `alike` decides all answers."""

    traces: str
    expert: ExpertServed
    seed: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sampled], str]
    recorded: Callable[[str], dict[str, Any]]
    end_ids: tuple[int, ...]
    alike: Mapping[str, Any]

    def parts(self, problems: Sequence[Problem]) -> list[Part]:
        """The whole work in shards."""
        size, parts = self.expert.shard_size, list[Part]()
        for start in range(0, len(problems), size):
            asked, requests = list[tuple[Problem, int]](), list[Request]()
            for problem in problems[start : start + size]:
                ids = tuple(self.encode(problem.prompt))
                for sample in range(self.expert.samples_per_problem):
                    own = derive(self.seed, "ask", self.traces, problem.id, sample)
                    asked.append((problem, sample))
                    requests.append(Request(f"{problem.id}#{sample}", ids, own))
            parts.append(Part(shard_of(len(parts), requests, self.alike), tuple(asked), tuple(requests)))
        return parts

    def body(self, request: Request) -> dict[str, Any]:
        """The request as /v1/completions takes it. Prompts go as tokens, so that no text is read as a special one."""
        return {
            "model": NAME,
            "prompt": list(request.prompt_ids),
            "max_tokens": self.expert.max_response_tokens,
            "temperature": self.expert.temperature,
            "top_p": self.expert.top_p,
            "seed": request.seed % SEEDS,
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,
            "return_token_ids": True,
        }

    def ask(self, servers: Sequence[Endpoint], part: Part) -> list[Answer]:
        """The expert's answers to one part."""
        bodies = [(request.id, self.body(request)) for request in part.requests]
        return [
            Answer(
                self.traces, problem.id, sample, problem.prompt, self.decode(got), got.finish, len(got.ids), one.seed
            )
            for (problem, sample), one, got in zip(
                part.asked, part.requests, complete(servers, bodies, self.expert.requests_at_once), strict=True
            )
        ]

    def check_fit(self, server: Endpoint, parts: Sequence[Part]) -> None:
        """Raises UserError before anything is asked, if a prompt and its longest response do not fit the expert."""
        requests, context = [one for part in parts for one in part.requests], int(server.model()["max_model_len"])
        try:
            check_prompts(requests, self.expert.max_response_tokens, context)
        except PromptError as error:
            raise UserError(f"{error}; lower expert.max_response_tokens, or see expert.options.max_model_len") from None


def asking_of(study: Study, expert: ExpertServed, traces: str, folder: Path) -> Asking:
    """What is asked of the expert in a folder, with its tokenizer."""
    if traces == "base":
        raise UserError("--traces-of: found base, expected expert or aligned: no model writes a base model's corpus")
    check_model(folder)
    from transformers import AutoTokenizer

    from chord.data.prompts import as_recorded, end_ids, prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ends = tuple(end_ids(tokenizer, configured_ends_in(folder)))

    def worded(prompt: str) -> str:
        return expert.prompt.replace("{prompt}", prompt)

    def encode(prompt: str) -> list[int]:
        return prompt_ids(tokenizer, worded(prompt), expert.system, study.prompt_date)

    def recorded(prompt: str) -> dict[str, Any]:
        return as_recorded(tokenizer, ends, worded(prompt), expert.system, study.prompt_date)

    def decode(got: Sampled) -> str:
        ids = got.ids[:-1] if got.finish == "stop" else got.ids
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    alike = {"expert": tree_hash(folder), "vllm": vllm_version(), "options": dict(expert.options)}
    alike |= {"tensor_parallel": expert.tensor_parallel, "end_ids": list(ends), "top_p": expert.top_p}
    alike |= {"max_tokens": expert.max_response_tokens, "temperature": expert.temperature}
    return Asking(traces, expert, study.data.seed, encode, decode, recorded, ends, alike)


# --- the verb ------------------------------------------------------------------------------------


def main() -> None:
    """Asks what was not answered yet, then verifies, chooses and writes."""
    args = _arguments()
    project = project_of(args)
    study = project.study
    expert, lock = _served(study, args.traces_of), project.lock
    decided = of_traces(study, args.traces_of, lock)
    problems = read_lines(args.problems, Problem)
    inputs = {"problems": args.problems, "expert": args.expert}
    with Manifest.recording(
        args.manifest,
        decided,
        inputs=inputs | ({"tokenizer": args.tokenizer} if args.tokenizer else {}),
        outputs={"traces": args.traces, "counts": args.counts},
        seeds={"data": study.data.seed},
    ) as recording:
        check_options(expert.options, f"config/studies/{study.name}.yaml: expert.options")
        asking = asking_of(study, expert, args.traces_of, args.expert)
        with Lease.acquire(args.state):
            answers, recording.extra["served"] = answered(asking, problems, args)
        judged = judge(study, problems, answers, *measured_in(study, args.tokenizer))
        traces, rejected = chosen(study, expert, problems, judged)
        _refuse_too_few(args, traces, rejected, len(problems))
        recording.extra |= asking.recorded(problems[0].prompt)
        write_atomically(args.traces, write_lines(traces))
        told = _counts(args.traces_of, expert, traces, rejected, problems, judged)
        told["length_measured_in"] = measured_in(study, args.tokenizer)[1]
        write_atomically(args.counts, json.dumps(told, indent=1) + "\n")
    print(f"{args.traces_of}: {len(traces)} traces kept, {rejected.total()} problems without one", flush=True)


def answered(
    asking: Asking, problems: Sequence[Problem], args: argparse.Namespace
) -> tuple[list[Answer], dict[str, Any]]:
    """All answers, those of finished shards and those that are sampled now; and what is to be told of it."""
    parts, expert = asking.parts(problems), asking.expert
    found = {part.shard.number: finished(args.state, part.shard) for part in parts}
    missing = [part for part in parts if found[part.shard.number] is None]
    told: dict[str, Any] = {**asking.alike, "shards": {"found": len(parts) - len(missing), "made": len(missing)}}
    told |= {"requests": sum(len(part.requests) for part in missing), "replicas": expert.replicas}
    if missing:
        settings = Settings(
            replicas=expert.replicas,
            tensor_parallel=expert.tensor_parallel,
            options=expert.options,
            where=f"config/studies/{args.study}.yaml: expert",
            threads=args.threads,
            ready_seconds=60 * expert.start_minutes,
        )
        with serving(args.expert, settings, args.state) as servers:
            told["devices"] = [server.devices or "cpu" for server in servers]
            asking.check_fit(servers[0], missing)
            for part in missing:
                found[part.shard.number] = made = asking.ask(servers, part)
                finish(args.state, part.shard, made, {"served": dict(asking.alike)})
                print(f"{part.shard.name}: {len(made)} answers, {len(parts)} shards in all", flush=True)
    return [answer for part in parts for answer in found[part.shard.number] or []], told


def judge(
    study: Study, problems: Sequence[Problem], answers: Sequence[Answer], measure: Callable[[str], int], measured: str
) -> dict[str, list[Judged]]:
    """Every answer with what the grader says of it, by problem.

    One that was cut off is no trace, even if what it has is right: its end would be taught where none was.
    """
    wanted = {problem.id: problem.answer for problem in problems}
    judged: dict[str, list[Judged]] = {problem.id: [] for problem in problems}
    alphabet, most = study.model.alphabet, study.rollouts.max_response_tokens
    with Grader(study.grading) as grader:
        outcomes = grader.grade_all([(answer.text, answer.finish, wanted[answer.problem]) for answer in answers])
        for answer, outcome in zip(answers, outcomes, strict=True):
            tokens = measure(answer.text)
            misfit = TOO_LONG if tokens > most else CUT if answer.finish == "length" else None
            if alphabet is not None and not set(answer.text) <= set(alphabet):
                misfit = OUTSIDE
            judged[answer.problem].append(Judged(answer, outcome, tokens, misfit))
    return judged


def chosen(
    study: Study, expert: ExpertServed, problems: Sequence[Problem], judged: Mapping[str, Sequence[Judged]]
) -> tuple[list[Trace], Counter[str]]:
    """One trace for each problem with a verified answer, and how many problems have none, by the reason."""
    traces: list[Trace] = []
    rejected: Counter[str] = Counter()
    for problem in problems:
        best = kept(judged[problem.id], expert.keep, study.data.seed)
        if best is None:
            rejected[why_none(judged[problem.id])] += 1
            continue
        traces.append(Trace(best.name, problem.id, problem.prompt, best.answer.text, expert.name))
    return traces, rejected


def measured_in(study: Study, tokenizer: Path | None) -> tuple[Callable[[str], int], str]:
    """How many tokens of the policy a response has with its end token, and how that is known."""
    if study.model.source != "random" and tokenizer is None:
        raise UserError("--tokenizer: found nothing, expected the folder of the study's base model")
    return demonstrate.measured_in(study, tokenizer)


def _served(study: Study, traces: str) -> ExpertServed:
    expert = expert_of(study, traces)
    if expert.source != "served":
        other = f"other_experts.{traces.partition('-')[2]}.expert"
        key = "expert" if asked_expert(study, traces) == "expert" else other
        raise ConfigError(
            f"config/studies/{study.name}.yaml: {key}.source is {expert.source}, expected served; other experts are"
            " asked by chord demonstrate"
        )
    return expert


def _refuse_too_few(args: argparse.Namespace, traces: Sequence[Trace], rejected: Counter[str], problems: int) -> None:
    """Raises UserError if no trace is right, or if a training prompt is left without its trace."""
    if not traces or (args.traces_of == "aligned" and rejected):
        raise UserError(
            f"{args.problems}: found {rejected.total()} of {problems} problems without a right {args.traces_of} trace"
            f" ({dict(rejected)}), expected {'one each' if args.traces_of == 'aligned' else 'some'}; change"
            " expert.samples_per_problem, expert.max_response_tokens, expert.prompt, or the expert"
        )


def _counts(
    name: str,
    expert: ExpertServed,
    traces: Sequence[Trace],
    rejected: Counter[str],
    problems: Sequence[Problem],
    judged: Mapping[str, Sequence[Judged]],
) -> dict[str, Any]:
    """How many traces were kept, why others were not, how long they are, and the yield by difficulty."""
    ids = {trace.id for trace in traces}
    tokens = [one.tokens for answers in judged.values() for one in answers if one.name in ids]
    return {
        "traces": name,
        "writer": expert.name,
        "kept": len(traces),
        "rejected": dict(sorted(rejected.items())),
        "response_tokens": lengths(tokens),
        "samples_per_problem": expert.samples_per_problem,
        "by_difficulty": yields(judged, problems),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Expert traces by a served model, each found right.")
    for name, required, what in (
        ("problems", True, "the problems to answer, JSON lines"),
        ("expert", True, "folder of the expert's model and its tokenizer"),
        ("tokenizer", False, "folder of the study's base model, where it is not trained by the study"),
        ("state", True, "folder for finished shards and the servers' logs; the same folder goes on with them"),
        ("traces", True, "file for the traces"),
        ("counts", True, "file for what was kept, rejected and why, and the yield"),
        ("manifest", True, "file for what this command read, ran on and wrote"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=required, help=what)
    add_study(parser)
    parser.add_argument("--traces-of", required=True, help="expert, expert-NAME; aligned (of the training problems)")
    parser.add_argument("--threads", action=Number, default=1, help="of the processor, for each replica on a CPU")
    return parser.parse_args()

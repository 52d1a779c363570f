"""Expert traces by a language model that vLLM serves; each is right, as the study's grader has it.

Every problem is asked several times, each time under a seed of its own. What was answered is kept in `--state`, shard
by shard: a run that was killed goes on after the last finished shard, and another grader asks nothing again.
"""

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from chord.config.sets import expert_of, seed_of
from chord.config.study import ExpertServed, Study
from chord.data.demonstrate import OUTSIDE, Work, Written, lengths
from chord.data.prompts import as_recorded, end_ids, load_tokenizer, prompt_ids
from chord.errors import UserError
from chord.grading.graders import Grader
from chord.provenance.files import Lease, tree_hash, write_atomically
from chord.records import (
    Answer,
    Outcome,
    Problem,
    PromptError,
    Request,
    Sampled,
    Trace,
    check_prompts,
    read_lines,
    write_lines,
)
from chord.sampling import vllm_server as vllm
from chord.settings import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "too long for the policy"
CUT = "cut at the token limit"
KEY_DIGITS = 16
NUMBER = re.compile(r"\d+")


def served(work: Work) -> Written:
    """Asks what was not answered yet, then grades all answers and keeps one for each problem."""
    study, problems, args = work.study, work.problems, work.args
    expert = expert_of(study, work.name)
    assert expert.source == "served"
    vllm.check_options(expert.options, f"config/studies/{study.name}.yaml: expert.options")
    asking = asking_of(study, expert, work.name, args.expert)
    with Lease.acquire(args.state):
        answers, told = answered(asking, problems, args)
    judged = judge(study, problems, answers, work.tokens)
    written = Written(
        counts={"samples_per_problem": expert.samples_per_problem, "by_difficulty": yields(judged, problems)},
        recorded={"served": told, **asking.recorded(problems[0].prompt)},
    )
    for problem in problems:
        best = kept(judged[problem.id], expert.keep, seed_of(study, work.name))
        if best is None:
            written.rejected[why_none(judged[problem.id])] += 1
            continue
        name = f"{problem.id}.sample-{best.answer.sample}"
        written.add(Trace(name, problem.id, problem.prompt, best.answer.text, expert.name), best.tokens, None)
    return written


# --- asking --------------------------------------------------------------------------------------


class Question(NamedTuple):
    """A problem, the number of the sample, and what the server is asked."""

    problem: Problem
    sample: int
    request: Request


@dataclass(frozen=True)
class Shard:
    """A part of the answers, which is never made twice: of each problem, all samples after each other.

    Beside NAME.jsonl lies NAME.json with its hash. Both are written whole, the second one last, and no workflow removes
    them. `key` is the hash of all that decides the answers.
    """

    number: int
    key: str
    asked: Sequence[Question]

    @property
    def name(self) -> str:
        """Without the ending."""
        return f"shard-{self.number:05d}-{self.key[:KEY_DIGITS]}"

    def finished(self, folder: Path) -> list[Answer] | None:
        """Its answers; None if they are not there, or not whole, or were altered."""
        content = folder / f"{self.name}.jsonl"
        try:
            note = json.loads((folder / f"{self.name}.json").read_bytes())
            is_whole = (note["key"], note["sha256"]) == (self.key, hashlib.sha256(content.read_bytes()).hexdigest())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return read_lines(content, Answer) if is_whole else None

    def finish(self, folder: Path, answers: Sequence[Answer], about: Mapping[str, Any]) -> None:
        """Put the answers down; from here on they are never asked for again. `about` tells who made them and how."""
        text = write_lines(answers)
        write_atomically(folder / f"{self.name}.jsonl", text)
        note = {"key": self.key, "sha256": hashlib.sha256(text.encode()).hexdigest(), "answers": len(answers), **about}
        write_atomically(folder / f"{self.name}.json", json.dumps(note, indent=1) + "\n")


def shard_of(number: int, asked: Sequence[Question], alike: Mapping[str, Any]) -> Shard:
    """The shard in which `asked` is answered; `alike` is what decides the answers of all shards."""
    text = json.dumps([dict(alike), [one.request for one in asked]], sort_keys=True)
    return Shard(number, hashlib.sha256(text.encode()).hexdigest(), asked)


@dataclass(frozen=True)
class Asking:
    """What every question has alike: who is asked, how, and in which words. `alike` decides all answers."""

    study: Study
    expert: ExpertServed
    traces: str
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: Sequence[int]
    alike: Mapping[str, Any]

    def _worded(self, prompt: str) -> tuple[str, str | None, str | None]:
        return self.expert.prompt.replace("{prompt}", prompt), self.expert.system, self.study.prompt_date

    def shards(self, problems: Sequence[Problem]) -> list[Shard]:
        """The whole work."""
        size, shards = self.expert.shard_size, list[Shard]()
        for start in range(0, len(problems), size):
            asked = list[Question]()
            for problem in problems[start : start + size]:
                ids = tuple(prompt_ids(self.tokenizer, *self._worded(problem.prompt)))
                for sample in range(self.expert.samples_per_problem):
                    seed = derive(self.study.data.seed, "ask", self.traces, problem.id, sample)
                    asked.append(Question(problem, sample, Request(f"{problem.id}#{sample}", ids, seed)))
            shards.append(shard_of(len(shards), asked, self.alike))
        return shards

    def body(self, request: Request) -> dict[str, Any]:
        """The request as /v1/completions takes it. Prompts go as tokens, so that no text is read as a special one."""
        return {
            "model": vllm.NAME,
            "prompt": list(request.prompt_ids),
            "max_tokens": self.expert.max_response_tokens,
            "temperature": self.expert.temperature,
            "top_p": self.expert.top_p,
            "seed": request.seed % vllm.SEEDS,
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,
            "return_token_ids": True,
        }

    def ask(self, servers: Sequence[vllm.Endpoint], shard: Shard) -> list[Answer]:
        """The expert's answers to one shard."""
        bodies = [(one.request.id, self.body(one.request)) for one in shard.asked]
        sampled = vllm.complete(servers, bodies, self.expert.requests_at_once)
        return [
            Answer(
                benchmark=self.traces,
                problem=problem.id,
                sample=sample,
                prompt=problem.prompt,
                text=self.text(got),
                finish=got.finish,
                response_tokens=len(got.ids),
                seed=request.seed,
            )
            for (problem, sample, request), got in zip(shard.asked, sampled, strict=True)
        ]

    def text(self, got: Sampled) -> str:
        """What was sampled, without the token that ended it."""
        ids = got.ids[:-1] if got.finish == "stop" else got.ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def recorded(self, prompt: str) -> dict[str, Any]:
        """What the manifest says of prompts, `prompt` being the first."""
        return as_recorded(self.tokenizer, self.end_ids, *self._worded(prompt))


def asking_of(study: Study, expert: ExpertServed, traces: str, folder: Path) -> Asking:
    """What is asked of the expert in a folder, with its tokenizer. Raises UserError if no model is in it."""
    vllm.check_model(folder)
    tokenizer = load_tokenizer(folder)
    ends = end_ids(tokenizer, vllm.configured_ends_in(folder))
    alike = {"expert": tree_hash(folder), "vllm": vllm.vllm_version(), "options": dict(expert.options)}
    alike |= {"tensor_parallel": expert.tensor_parallel, "end_ids": ends, "top_p": expert.top_p}
    alike |= {"max_tokens": expert.max_response_tokens, "temperature": expert.temperature}
    return Asking(study, expert, traces, tokenizer, ends, alike)


def answered(
    asking: Asking, problems: Sequence[Problem], args: argparse.Namespace
) -> tuple[list[Answer], dict[str, Any]]:
    """All answers, those of finished shards and those that are sampled now; and what the manifest says of it.

    Raises UserError before anything is asked, if a prompt and its longest response do not fit the expert.
    """
    shards, expert = asking.shards(problems), asking.expert
    found = {shard.number: shard.finished(args.state) for shard in shards}
    missing = [shard for shard in shards if found[shard.number] is None]
    requests = [one.request for shard in missing for one in shard.asked]
    told: dict[str, Any] = {**asking.alike, "shards": {"found": len(shards) - len(missing), "made": len(missing)}}
    told |= {"requests": len(requests), "replicas": expert.replicas}
    if missing:
        settings = vllm.Settings(
            replicas=expert.replicas,
            tensor_parallel=expert.tensor_parallel,
            options=expert.options,
            where=f"config/studies/{args.study}.yaml: expert",
            threads=args.threads,
            ready_seconds=60 * expert.start_minutes,
        )
        with vllm.serving(args.expert, settings, args.state) as servers:
            told["devices"] = [server.devices or "cpu" for server in servers]
            try:
                check_prompts(requests, expert.max_response_tokens, int(servers[0].model()["max_model_len"]))
            except PromptError as error:
                remedy = "lower expert.max_response_tokens, or see expert.options.max_model_len"
                raise UserError(f"{error}; {remedy}") from None
            for shard in missing:
                found[shard.number] = made = asking.ask(servers, shard)
                shard.finish(args.state, made, {"served": dict(asking.alike)})
                print(f"{shard.name}: {len(made)} answers, {len(shards)} shards in all", flush=True)
    return [answer for shard in shards for answer in found[shard.number] or []], told


# --- choosing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """One answer: what the grader says, its length in the policy's tokens, and why the policy could not write it."""

    answer: Answer
    outcome: Outcome
    tokens: int
    misfit: str | None

    @property
    def is_verified(self) -> bool:
        """Right, and within what the policy can write."""
        return self.outcome is Outcome.RIGHT and self.misfit is None


def judge(
    study: Study, problems: Sequence[Problem], answers: Sequence[Answer], tokens: Callable[[str], int]
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
        size = tokens(answer.text)
        misfit = TOO_LONG if size > most else CUT if answer.finish == "length" else None
        if alphabet is not None and not set(answer.text) <= set(alphabet):
            misfit = OUTSIDE
        judged[answer.problem].append(Judged(answer, outcome, size, misfit))
    return judged


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


def yields(judged: Mapping[str, Sequence[Judged]], problems: Sequence[Problem]) -> dict[str, Any]:
    """For each task and difficulty: problems, those with a verified answer, samples by outcome, and their lengths."""
    groups: defaultdict[str, list[Sequence[Judged]]] = defaultdict(list)
    for problem in problems:
        groups[f"{problem.task}: {_difficulty(problem)}"].append(judged[problem.id])
    return {name: _yield(group) for name, group in sorted(groups.items())}


def _difficulty(problem: Problem) -> str:
    """How hard the problem is, as far as its source tells; else the length of its prompt."""
    source = problem.source
    if "difficulty" in source:
        return f"difficulty {source['difficulty']}"
    if "expression" in source and (numbers := NUMBER.findall(source["expression"])):
        return f"{len(numbers)} terms of up to {max(map(len, numbers))} digits"
    if "word" in source:
        return f"{len(source['word'])} letters"
    return f"prompts of up to {1 << (len(problem.prompt) - 1).bit_length()} characters"


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

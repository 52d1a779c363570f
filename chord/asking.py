"""What a served expert is asked, in shards, and how its tokens become text. Part of `chord ask-expert`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.config.study import ExpertServed, Study
from chord.provenance.files import UserError
from chord.provenance.hashing import tree_hash
from chord.records import Answer, Problem, derive
from chord.sampling.completions import Completion, Wish, complete, context_of
from chord.sampling.protocol import PromptError, Request, check_prompts
from chord.sampling.server import Server
from chord.sampling.vllm_options import configured_ends_in, vllm_version
from chord.tasks.shards import Shard, shard_of


@dataclass(frozen=True)
class Part:
    """A shard, the problems in it, and what is asked of each: all samples of one problem after each other."""

    shard: Shard
    problems: tuple[Problem, ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Asking:
    """What every question has alike: who is asked, how, and in which words."""

    traces: str
    expert: ExpertServed
    seed: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Completion], str]
    recorded: Callable[[str], dict[str, Any]]
    wish: Wish
    alike: Mapping[str, Any]

    def parts(self, problems: Sequence[Problem]) -> list[Part]:
        """The whole work in shards."""
        size = self.expert.shard_size
        return [
            self._part(number, problems[start : start + size])
            for number, start in enumerate(range(0, len(problems), size))
        ]

    def _part(self, number: int, problems: Sequence[Problem]) -> Part:
        requests = tuple(
            Request(f"{problem.id}#{sample}", ids, derive(self.seed, "ask", self.traces, problem.id, sample))
            for problem in problems
            for ids in [tuple(self.encode(problem.prompt))]
            for sample in range(self.expert.samples_per_problem)
        )
        return Part(shard_of(number, requests, self.alike), tuple(problems), requests)

    def ask(self, servers: Sequence[Server], part: Part) -> list[Answer]:
        """The expert's answers to one part."""
        completions = complete(servers, part.requests, self.wish)
        asked = [(problem, sample) for problem in part.problems for sample in range(self.expert.samples_per_problem)]
        return [
            Answer(
                self.traces, problem.id, sample, problem.prompt, self.decode(got), got.finish, len(got.ids), one.seed
            )
            for (problem, sample), one, got in zip(asked, part.requests, completions, strict=True)
        ]


def asking_of(study: Study, expert: ExpertServed, traces: str, folder: Path) -> Asking:
    """Reads the expert's tokenizer; `alike` is all that decides its answers but the questions."""
    if traces == "base":
        raise UserError("--traces-of: found base, expected expert or aligned: no model writes a base model's corpus")
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(folder.glob(needed)):
            raise UserError(f"{folder}: found no {needed}, expected the folder of the expert's model")
    from transformers import AutoTokenizer

    from chord.tasks.prompts import as_recorded, end_ids, prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ends = tuple(end_ids(tokenizer, configured_ends_in(folder)))
    wish = Wish(expert.max_response_tokens, expert.temperature, expert.top_p, ends, expert.requests_at_once)

    def worded(prompt: str) -> str:
        return expert.prompt.replace("{prompt}", prompt)

    def encode(prompt: str) -> list[int]:
        return prompt_ids(tokenizer, worded(prompt), expert.system, study.prompt_date)

    def recorded(prompt: str) -> dict[str, Any]:
        return as_recorded(tokenizer, ends, worded(prompt), expert.system, study.prompt_date)

    def decode(got: Completion) -> str:
        ids = got.ids[:-1] if got.finish == "stop" else got.ids
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    alike = {"expert": tree_hash(folder), "vllm": vllm_version(), "options": dict(expert.options)}
    alike |= {"tensor_parallel": expert.tensor_parallel, "end_ids": list(ends), "top_p": wish.top_p}
    alike |= {"max_tokens": wish.max_tokens, "temperature": wish.temperature}
    return Asking(traces, expert, study.data.seed, encode, decode, recorded, wish, alike)


def check_fit(server: Server, parts: Sequence[Part], wish: Wish) -> None:
    """Raises UserError before anything is asked, if a prompt and its longest response do not fit the expert."""
    try:
        check_prompts([one for part in parts for one in part.requests], wish.max_tokens, context_of(server))
    except PromptError as error:
        raise UserError(f"{error}; lower expert.max_response_tokens, or see expert.options.max_model_len") from None

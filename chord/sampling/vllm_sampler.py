"""A sampler in vLLM, whose engine has weights of its own in this process: they are handed over, and can be compared.

Its promise: with the same weights, the same requests in the same order give the same bits. A request's random numbers
depend on its seed alone; but the rounding of its probabilities may depend on what else is in the batch, unless the
engine is batch-invariant, so alone it may, rarely, be answered otherwise.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chord.sampling.protocol import Request, Sampled, check_prompts
from chord.sampling.vllm_engine import Engine, as_guest, start_engine

SEEDS = 2**63  # vLLM takes seeds from 0 to below this one


class Held(NamedTuple):
    """What a sampler computes with: the version of the weights that it took last, and a checksum of each."""

    version: int
    dtype: torch.dtype
    checksums: dict[str, int]


class VllmSampler:
    """Samples with a vLLM engine in this process. `take` weights before the first `sample`."""

    def __init__(self, folder: Path, end_ids: Sequence[int], engine: Engine) -> None:
        """`folder` has the model's config.json. Raises UserError for what this vLLM, or this device, cannot do."""
        self.engine, self.end_ids, self.context = engine, list(end_ids), engine.context
        self.llm = start_engine(folder, engine)
        self.asleep = False

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.context)
        if not requests:
            return []
        with as_guest(self.engine.eager):
            from vllm import SamplingParams

            self._forget_prefixes()  # so that what was asked before moves no bit
            told = sampling_settings(requests, self.end_ids, max_tokens, temperature)
            asked = [SamplingParams(**one) for one in told]
            prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
            results = self.llm.generate(prompts, asked, use_tqdm=False)
        return [_sampled(result.outputs[0]) for result in results]

    def take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes the policy's weights, by their names in transformers; wakes the engine up for it."""
        with as_guest(self.engine.eager):
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("take_policy", kwargs={"version": version, "weights": iter(weights)})
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
            self._forget_prefixes()

    def held(self) -> list[Held]:
        """What the engine computes with now, read back from where it computes with it."""
        with as_guest(self.engine.eager):
            return [read_held(said) for said in self.llm.collective_rpc("policy_checksums")]

    def rest(self) -> None:
        """Gives the GPU's memory to the learner until the next `take`; the weights are forgotten."""
        if self.engine.sleep and not self.asleep:
            with as_guest(self.engine.eager):
                self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Ends the engine, and with it every process group of this process, those of others too."""
        with as_guest(self.engine.eager):
            self.llm.llm_engine.engine_core.shutdown()

    def _forget_prefixes(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("found requests in the engine, expected none between two calls; report this")


def sampling_settings(
    requests: Sequence[Request], end_ids: Sequence[int], max_tokens: int, temperature: float
) -> list[dict[str, Any]]:
    """What vLLM is told of each request: the whole distribution, ended by our end tokens alone."""
    alike = {
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": max_tokens,
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }
    return [alike | {"seed": request.seed % SEEDS} for request in requests]


def read_held(said: dict[str, Any]) -> Held:
    """What `PolicyWeights.policy_checksums` said, read."""
    dtype: torch.dtype = getattr(torch, said["dtype"].removeprefix("torch."))
    return Held(said["version"], dtype, {name: int(value) for name, value in said["checksums"].items()})


def _sampled(output: Any) -> Sampled:
    """A vLLM completion as ours."""
    ids = list(output.token_ids)
    logp = [float(place[token].logprob) for token, place in zip(ids, output.logprobs, strict=True)]
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"found a response that ended by '{output.finish_reason}', expected stop or length")
    return Sampled(ids, logp, output.finish_reason)

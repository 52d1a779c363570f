"""Samplers that ask vLLM: in this process, or on servers that take the weights.

`PolicyWeights` runs inside vLLM's own processes: it loads weights and says what it holds by checksum.
"""

import hashlib
import logging
import os
import random
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from chord.errors import UserError
from chord.records import Request, Sampled, check_prompts
from chord.sampling.vllm_server import (
    OURS,
    SEEDS,
    Endpoint,
    Option,
    check_batch_invariance,
    check_options,
    complete,
    engine_settings,
    prepare_process,
    refusals_of,
)

# --- checksums -----------------------------------------------------------------------------------

# They show whether two sides hold the same weights, bit for bit, without moving them. Sums of whole numbers are not
# rounded, so they are the same on every device and in every process.

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
SPREAD = -7046029254386353131  # 2^64 / the golden ratio, odd: each place counts with a weight of its own
CHUNK = 1 << 22  # elements at one time, of 8 bytes each


def checksum(tensor: Tensor) -> int:
    """A 64-bit sum of the tensor's bits, each element times an odd number of its place, and of its size; signed."""
    flat = tensor.detach().contiguous().reshape(-1).view(BITS[tensor.element_size()])
    total = torch.tensor(flat.numel(), dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK].to(torch.int64)
        places = torch.arange(start, start + part.numel(), device=flat.device, dtype=torch.int64)
        total += (part * (places * SPREAD | 1)).sum()
    return int(total)


def checksums(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, int]:
    """The checksum of each weight as `dtype` holds it, by name."""
    return {name: checksum(tensor.detach().to(dtype)) for name, tensor in weights}


def combined(sums: Mapping[str, int]) -> str:
    """One short hash for all of them, whatever their order."""
    text = "\n".join(f"{name} {value}" for name, value in sorted(sums.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- worker --------------------------------------------------------------------------------------

ROWS = 256  # of the identity at one time


class PolicyWeights:
    """Methods for vLLM's worker, whose `model_runner` and `reload_weights` they use.

    vLLM adds them to its worker class (option `worker_extension_cls`) and lets them be called by name, in the same
    process or over HTTP. They know vLLM's models by their attributes alone and import none of it.
    """

    model_runner: Any
    reload_weights: Any
    policy_version: int = -1

    def take_policy(
        self, version: int, weights: Iterable[tuple[str, Tensor]] | None = None, folder: str | None = None
    ) -> None:
        """Takes all weights, given as such or as a folder of safetensors, and remembers which `version` they are."""
        self.reload_weights(weights_iterator=weights, weights_path=folder)
        repack_tied_head(self.model_runner.get_model())
        self.policy_version = int(version)

    def policy_checksums(self) -> dict[str, Any]:
        """The version taken last, and a checksum of each weight that is computed with, by its name in a checkpoint."""
        sums = {name: str(checksum(held)) for name, held in weights_held(self.model_runner.get_model())}
        return {"version": self.policy_version, "dtype": str(self.model_runner.dtype), "checksums": sums}


def repack_tied_head(model: nn.Module) -> None:
    """Packs an output head anew whose weight is the embedding's.

    vLLM 0.32 leaves it out when weights are loaded anew on a CPU: the head goes on with the weights of before.
    """
    head: Any = getattr(model, "lm_head", None)
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "cpu_linear"):
        return
    config: Any = model.config  # every model of vLLM has one
    if config.tie_word_embeddings:
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)


def weights_held(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Each weight by the name that it has in a checkpoint of transformers: fused ones taken apart, padding cut off."""
    fused: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    modules: Iterable[tuple[str, Any]] = model.named_modules()
    for name, own in modules:
        # Rows of an embedding are read as they are; an output head, which has a vocabulary too, is multiplied with.
        only_looked_up = hasattr(own, "org_vocab_size") and type(own).__name__ != "ParallelLMHead"
        parameters: Iterable[tuple[str, Tensor]] = own.named_parameters(recurse=False)
        for part, parameter in parameters:
            held: Any = parameter.detach()
            if part == "weight" and hasattr(own, "cpu_linear") and not only_looked_up:
                held = _unpacked(own)
            if hasattr(own, "org_vocab_size"):
                held = held[: own.org_vocab_size]
            head, _, last = name.rpartition(".")
            names = fused.get(last, [last])
            sizes: list[int] = own.output_partition_sizes if len(names) > 1 else [held.shape[0]]
            for one, tensor in zip(names, held.split(sizes), strict=True):
                yield f"{head}.{one}.{part}".lstrip("."), tensor


def _unpacked(module: Any) -> Tensor:
    """The matrix that the layer multiplies with, (outputs, inputs).

    On a CPU vLLM packs it and drops the original. Applied to the identity, whose products with 1 and 0 are exact, the
    layer gives it back bit for bit.
    """
    inputs = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    identity = torch.eye(inputs, dtype=module.weight.dtype)
    blocks = [identity[start : start + ROWS] for start in range(0, inputs, ROWS)]
    columns = [module.cpu_linear(block, module.weight, None) for block in blocks]
    return torch.cat(columns).T  # each (rows, outputs)


# --- engine --------------------------------------------------------------------------------------

SET_BY_TRAINING = """
    dtype distributed_executor_backend enforce_eager enable_sleep_mode generation_config gpu_memory_utilization
    kv_cache_memory_bytes logprobs_mode max_model_len max_num_seqs seed skip_tokenizer_init worker_extension_cls"""


@dataclass(frozen=True)
class Engine:
    """How vLLM is set up. `rows` are sampled at one time; `where` is what errors call these settings."""

    dtype: str
    rows: int
    context: int
    memory_share: float | None = None
    cache_gb: float | None = None
    enforce_eager: bool = True
    sleep: bool = False
    batch_invariant: bool = False
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    where: str = "vllm"


def engine_arguments(folder: Path, engine: Engine) -> dict[str, Any]:
    """What vLLM gets. Raises UserError, by name, for what this device or this vLLM lacks, or another key sets.

    Log-probabilities are those of the distribution that is sampled from, after the temperature.
    """
    if engine.sleep and not torch.cuda.is_available():
        raise UserError(f"{engine.where}.sleep: found true, expected false on a CPU: vLLM sleeps only on GPUs")
    if engine.batch_invariant:
        check_batch_invariance(f"{engine.where}.batch_invariant")
    others = dict.fromkeys(SET_BY_TRAINING.split(), "none: other keys set it")
    check_options(engine.options, f"{engine.where}.options", OURS | others)
    said = engine_settings(engine.options, engine.dtype, engine.rows) | {
        "model": str(folder),
        "load_format": "dummy",  # the weights are handed over before anything is sampled
        "skip_tokenizer_init": True,
        "logprobs_mode": "processed_logprobs",
        "max_model_len": engine.context,
        "enforce_eager": engine.enforce_eager,
        "enable_sleep_mode": engine.sleep,
        "worker_extension_cls": f"{PolicyWeights.__module__}.{PolicyWeights.__qualname__}",
    }
    if engine.cache_gb is not None:
        said["kv_cache_memory_bytes"] = int(engine.cache_gb * 2**30)
    if engine.memory_share is not None:
        said["gpu_memory_utilization"] = engine.memory_share
    return said


@contextmanager
def as_guest(eager: bool) -> Generator[None]:
    """Within it vLLM may work; afterwards generators, environment and torch's settings are as they were.

    `eager`: nothing is compiled, also not what vLLM compiles in spite of `enforce_eager`. On CUDA torch's deterministic
    algorithms are off within, since vLLM calls some that have none: it has `batch_invariant` for the purpose.
    """
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    deterministic, on_gpu = torch.are_deterministic_algorithms_enabled(), torch.cuda.is_available()
    with ExitStack() as stack:
        as_drawn = cast(Any, torch.random.fork_rng)
        stack.enter_context(as_drawn(devices=[torch.cuda.current_device()] if on_gpu else []))
        if eager:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if on_gpu:
            torch.use_deterministic_algorithms(False)
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)
            torch.set_num_threads = set_num_threads
            torch.use_deterministic_algorithms(deterministic)
            for name in set(os.environ) - set(environment):
                if not name.startswith("VLLM_"):
                    del os.environ[name]
            os.environ.update({name: it for name, it in environment.items() if not name.startswith("VLLM_")})


# --- samplers ------------------------------------------------------------------------------------


class Held(NamedTuple):
    """What a sampler computes with: the version of the weights that it took last, and a checksum of each."""

    version: int
    dtype: torch.dtype
    checksums: dict[str, int]

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Held":
        """What `PolicyWeights.policy_checksums` said, read."""
        dtype: torch.dtype = getattr(torch, said["dtype"].removeprefix("torch."))
        return cls(said["version"], dtype, {name: int(value) for name, value in said["checksums"].items()})


class VllmSampler:
    """Samples with a vLLM engine in this process. `take` weights before the first `sample`.

    The same requests in the same order give the same bits. A request's random numbers depend on its seed alone; but
    the rounding of its probabilities, and rarely a token, may depend on what else is in the batch, unless the engine is
    batch-invariant.
    """

    def __init__(self, folder: Path, end_ids: Sequence[int], engine: Engine) -> None:
        """`folder` has the model's config.json. Raises UserError for what this vLLM, or this device, cannot do."""
        self.engine, self.end_ids, self.asleep = engine, list(end_ids), False
        arguments = engine_arguments(folder, engine)
        # Under torchrun each rank has an engine of its own, which must not take the ranks for parts of one.
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        arguments["distributed_executor_backend"] = "uni" if ranks == 1 else "external_launcher"
        prepare_process(engine.batch_invariant)
        with as_guest(engine.enforce_eager):
            from vllm import LLM

            # vLLM warns of every module without weights of its own at every hand-over; they are read back instead.
            logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
            with refusals_of(engine.where):
                self.llm: Any = LLM(**arguments)

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.engine.context)
        if not requests:
            return []
        with as_guest(self.engine.enforce_eager):
            from vllm import SamplingParams

            self._forget_prefixes()  # so that what was asked before moves no bit
            settings = sampling_settings(requests, self.end_ids, max_tokens, temperature)
            asked = [SamplingParams(**one, detokenize=False) for one in settings]
            prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
            results = self.llm.generate(prompts, asked, use_tqdm=False)
        return [as_sampled(result.outputs[0]) for result in results]

    def take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes the policy's weights, by their names in transformers; wakes the engine up for it."""
        with as_guest(self.engine.enforce_eager):
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("take_policy", kwargs={"version": version, "weights": iter(weights)})
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
            self._forget_prefixes()

    def held(self) -> list[Held]:
        """What the engine computes with now, read back from where it computes with it."""
        with as_guest(self.engine.enforce_eager):
            return [Held.of(said) for said in self.llm.collective_rpc("policy_checksums")]

    def rest(self) -> None:
        """Gives the GPU's memory to the learner until the next `take`; the weights are forgotten."""
        if self.engine.sleep and not self.asleep:
            with as_guest(self.engine.enforce_eager):
                self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Ends the engine, and with it every process group of this process, those of others too."""
        with as_guest(self.engine.enforce_eager):
            self.llm.llm_engine.engine_core.shutdown()

    def _forget_prefixes(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("found requests in the engine, expected none between two calls; report this")


def sampling_settings(
    requests: Sequence[Request], end_ids: Sequence[int], max_tokens: int, temperature: float
) -> list[dict[str, Any]]:
    """How vLLM samples each request: the whole distribution, ended by our end tokens alone."""
    alike = {
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": max_tokens,
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,
        "logprobs": 0,
    }
    return [alike | {"seed": request.seed % SEEDS} for request in requests]


def as_sampled(output: Any) -> Sampled:
    """What an engine in this process gave; without log-probabilities where none were asked for."""
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"found a response that ended by '{output.finish_reason}', expected stop or length")
    ids, places = list(output.token_ids), output.logprobs
    logp = [float(at[token].logprob) for token, at in zip(ids, places, strict=True)] if places is not None else []
    return Sampled(ids, logp, output.finish_reason)


class ServerSampler:
    """Samples from servers that hold one policy; `take` weights before the first `sample`.

    Token ids go over HTTP, weights through a folder that the servers can read. Requests arrive in any order, so that a
    token may, rarely, differ between two equal runs, unless the servers are batch-invariant. Servers need
    `PolicyWeights` and VLLM_SERVER_DEV_MODE=1, else no route hands weights over.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        end_ids: Sequence[int],
        engine: Engine,
        folder: Path | None,
        close: Callable[[], None],
    ) -> None:
        """`close` ends the servers that were started here. `folder` is where weights are written for them to read.

        A rank that only samples has no folder.
        """
        self.servers, self.end_ids, self.engine = list(servers), list(end_ids), engine
        self.name: str = self.servers[0].model()["id"]
        self.folder, self.close = folder, close

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.engine.context)
        told = sampling_settings(requests, self.end_ids, max_tokens, temperature)
        as_ids = {"return_token_ids": True, "skip_special_tokens": False}
        asked = [
            (request.id, settings | {"model": self.name, "prompt": list(request.prompt_ids)} | as_ids)
            for request, settings in zip(requests, told, strict=True)
        ]
        return complete(self.servers, asked, self.engine.rows)

    def take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Writes the weights where the servers read them, and has each take them, on the rank with the folder."""
        if self.folder is None:
            return
        here = self.folder / f"version-{version}"
        here.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(
            {name: one.detach().cpu().contiguous() for name, one in weights}, here / "model.safetensors"
        )
        asked = {"method": "take_policy", "kwargs": {"version": str(version), "folder": str(here.resolve())}}
        for server in self.servers:
            server.read("/collective_rpc", asked)
            if not server.read("/reset_prefix_cache", {})["success"]:
                raise UserError(f"{server.name}: found requests of others, expected none between two steps")
        shutil.rmtree(here)

    def held(self) -> list[Held]:
        """What each server computes with now."""
        said = [server.read("/collective_rpc", {"method": "policy_checksums"})["results"] for server in self.servers]
        return [Held.of(worker) for workers in said for worker in workers]

    def rest(self) -> None:
        """A server has devices of its own, so it need not make room."""

"""Brings the policy's weights to a vLLM sampler that has weights of its own, and proves that they are there.

For `execution.sampler: vllm` alone; with the transformers sampler learner and sampler are one model. After each
hand-over the sampler is asked for a checksum of every weight that it computes with, and the learner sums up its own,
rounded to the sampler's dtype: equal sums, and the version that was sent, or the run stops.
"""

import copy
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chord.config.project import Run
from chord.config.study import Vllm
from chord.errors import UserError
from chord.records import StaleSampler
from chord.sampling.vllm_sampler import (
    Engine,
    Held,
    ServerSampler,
    VllmSampler,
    checksums,
    combined,
    engine_arguments,
)
from chord.sampling.vllm_server import LOOPBACK, Endpoint, Settings, serving, visible_devices
from chord.training.engine import World

WHERE = "execution.vllm"
SHOWN = 3  # names of weights in an error


@dataclass(frozen=True)
class HandOver:
    """A sampler with weights of its own, one for each rank. `tied` are names of weights that stand for others."""

    sampler: VllmSampler | ServerSampler
    world: World
    tied: Mapping[str, str] = field(default_factory=dict[str, str])

    def over(self, weights: Iterable[tuple[str, Tensor]], version: int) -> dict[str, Any]:
        """Hands the weights over as `version`, the number of updates behind them; gives the proof, for the log.

        Raises StaleSampler, on every rank, where the sampler of any rank computes with other weights.
        """
        due = dict(weights)
        self.sampler.take(due.items(), version)
        self.world.gather(None)  # servers are asked by all ranks and take from one
        every = self.sampler.held()
        wanted = checksums(due.items(), every[0].dtype)
        wanted |= {alias: wanted[name] for alias, name in self.tied.items()}
        fault = next(filter(None, (difference(held, version, wanted) for held in every)), "")
        for rank, found in enumerate(self.world.gather(fault)):
            if found:
                raise StaleSampler(f"the sampler of rank {rank} {found}")
        return {"version": version, "weights": combined(wanted)}


def difference(held: Held, version: int, wanted: Mapping[str, int]) -> str:
    """What the sampler holds that is not the learner's, in words; nothing if they agree bit for bit."""
    names = sorted(name for name in held.checksums.keys() | wanted if held.checksums.get(name) != wanted.get(name))
    if held.version == version and not names:
        return ""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return (
        f"holds version {held.version} of the weights and {len(names)} of {len(wanted)} of them differ from the"
        f" learner's{f' ({shown})' if names else ''}, expected version {version} bit for bit: what it samples would be"
        " another policy's"
    )


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Other names of weights that are there once, like an output head that is the embedding."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


# --- start ---------------------------------------------------------------------------------------


def start(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_ids: list[int], world: World, room: Path
) -> HandOver:
    """The vLLM sampler of this rank, without weights yet. Raises UserError for what this vLLM or device lacks.

    `room` is a folder, to be made, for what servers read and log.
    """
    settings = run.execution.vllm or Vllm()
    shared = {"memory_share", "cache_gb", "enforce_eager", "sleep", "batch_invariant", "options"}
    engine = Engine(
        dtype=settings.dtype or run.execution.compute_dtype,
        rows=run.execution.sampler_rows,
        context=settings.context_tokens or model.config.max_position_embeddings,
        where=WHERE,
        **settings.model_dump(include=shared),
    )
    if settings.placement == "colocated":
        with tempfile.TemporaryDirectory() as config:
            _write_config(model, Path(config))
            sampler = VllmSampler(Path(config), end_ids, engine)
    else:
        stack = ExitStack()
        if settings.address is not None:  # a server that runs already
            host, _, port = settings.address.rpartition(":")
            servers = [Endpoint(host, int(port), os.environ.get("VLLM_API_KEY", ""))]
        else:
            started = _started(settings, engine, model, tokenizer, room, stack) if world.leads else []
            servers = world.from_leader(started)
        folder = room if world.leads else None
        sampler = ServerSampler(servers, end_ids, engine, folder, stack.close)
    return HandOver(sampler, world, tied_names(model))


def _started(
    settings: Vllm,
    engine: Engine,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    room: Path,
    stack: ExitStack,
) -> list[Endpoint]:
    """Servers that end with `stack`, set up as the engine in this process would be, but with routes for weights."""
    options = engine_arguments(Path(), engine)
    for name in ("model", "load_format", "skip_tokenizer_init"):
        del options[name]
    stack.callback(shutil.rmtree, room, ignore_errors=True)
    _write_config(model, room / "model")
    tokenizer.save_pretrained(room / "model")
    weights = {name: one.detach().cpu().contiguous() for name, one in model.named_parameters()}
    safetensors.torch.save_file(weights, room / "model" / "model.safetensors", metadata={"format": "pt"})
    environment = {"VLLM_SERVER_DEV_MODE": "1"}
    if engine.enforce_eager:
        environment["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles a few functions in spite of enforce_eager
    if engine.batch_invariant:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    how = Settings(replicas=settings.replicas, options=options, where=WHERE, environment=environment)
    servers = stack.enter_context(serving(room / "model", how, room, devices_beside_the_learner()))
    return [Endpoint(LOOPBACK, server.port, server.key) for server in servers]


def devices_beside_the_learner() -> list[str]:
    """The visible GPUs that no rank of this machine learns on; none on a CPU. Raises UserError if none is left."""
    devices, ranks = visible_devices(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if devices and len(devices) <= ranks:
        raise UserError(
            f"{WHERE}.placement: found server with {len(devices)} GPUs for {ranks} ranks that learn, expected GPUs"
            " besides: ask for more, or for placement colocated"
        )
    return devices[ranks:]


def _write_config(model: PreTrainedModel, folder: Path) -> None:
    """All that vLLM reads of the model before its weights."""
    config: Any = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    config.save_pretrained(folder)

"""Brings the policy's weights to a sampler that has weights of its own, and proves that they are there.

Part of the verb `train`, for `execution.sampler: vllm` alone; with the transformers sampler learner and sampler are one
model. After each hand-over the sampler is asked for a checksum of every weight that it computes with, and the learner
sums up its own, rounded to the sampler's dtype: equal sums, and the version that was sent, or the run stops.
"""

import copy
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from chord.config import Run, Vllm
from chord.learner.world import World
from chord.sampling.checksums import checksums, combined
from chord.sampling.protocol import StaleSampler
from chord.sampling.vllm_engine import Engine
from chord.sampling.vllm_sampler import Held, VllmSampler

WHERE = "execution.vllm"
SHOWN = 3  # names of weights in an error


@dataclass(frozen=True)
class HandOver:
    """A sampler with weights of its own, one for each rank. `tied` are names of weights that stand for others."""

    sampler: VllmSampler
    world: World
    tied: Mapping[str, str] = field(default_factory=dict[str, str])

    def over(self, weights: Iterable[tuple[str, Tensor]], version: int) -> dict[str, Any]:
        """Hands the weights over as `version`, the number of updates behind them; gives the proof, for the log.

        Raises StaleSampler, on every rank, where the sampler of any rank computes with other weights.
        """
        due = dict(weights)
        self.sampler.take(due.items(), version)
        held = self.sampler.held()
        wanted = checksums(due.items(), held.dtype)
        wanted |= {alias: wanted[name] for alias, name in self.tied.items()}
        fault = difference(held, version, wanted)
        for rank, found in enumerate(self.world.gather(fault)):
            if found:
                raise StaleSampler(f"the sampler of rank {rank} {found}")
        return {"version": held.version, "weights": combined(held.checksums)}


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


def start(run: Run, model: PreTrainedModel, end_ids: list[int], world: World) -> HandOver:
    """The vLLM sampler of this rank, without weights yet. Raises UserError for what this vLLM or device lacks."""
    settings = run.execution.vllm or Vllm()
    engine = Engine(
        dtype=settings.dtype or run.execution.compute_dtype,
        rows=run.execution.sampler_rows,
        context=settings.context_tokens or model.config.max_position_embeddings,
        memory_share=settings.memory_share,
        cache_gb=settings.cache_gb,
        eager=settings.enforce_eager,
        sleep=settings.sleep,
        batch_invariant=settings.batch_invariant,
        options=settings.options,
        where=WHERE,
    )
    with tempfile.TemporaryDirectory() as folder:
        _write_config(model, Path(folder))
        return HandOver(VllmSampler(Path(folder), end_ids, engine), world, tied_names(model))


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Other names of weights that are there once, like an output head that is the embedding."""
    first: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def _write_config(model: PreTrainedModel, folder: Path) -> None:
    """All that vLLM reads of the model before its weights."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    config.save_pretrained(folder)

"""A policy that both samplers can sample: the demo's architecture with random weights, in float32, heads of size 32.

vLLM's attention on a CPU has heads of 32, 64, 80, 96, 112, 128 and more, none of the 4 of `tests.parity.reference`.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from chord.config.project import load
from chord.sampling.vllm_sampler import Engine, VllmSampler
from chord.training.policy import as_policy, blank_model, character_tokenizer

MODEL = load(Path(__file__).parents[1], study="demo").study.model
TOKENIZER = character_tokenizer(MODEL.alphabet)
CONTEXT = 96
# So few tokens in a pass that prompts have to wait for the next one, as long prompts do in earnest.
ENGINE = Engine(
    dtype="float32",
    rows=64,
    context=CONTEXT,
    cache_gb=0.05,
    options={"max_num_batched_tokens": 128},
    where="execution.vllm",
)
ON_GPU = {"sleep": True, "memory_share": 0.3}  # beside whatever else the tests hold there


def random_policy(seed: int = 3) -> PreTrainedModel:
    """A policy undecided enough to say anything, but not alike at all places."""
    sizes = MODEL.architecture.model_dump() | {"max_position_embeddings": CONTEXT}
    model = as_policy(blank_model(sizes, TOKENIZER, seed))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    return model


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights on the CPU, under the attention of transformers itself."""
    other = copy.deepcopy(model).cpu().double()
    other.set_attn_implementation("sdpa")
    return other


def write_config(model: PreTrainedModel, folder: Path) -> Path:
    """A folder with the config.json that an engine needs."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    config.save_pretrained(folder)
    return folder


def start(folder: Path) -> VllmSampler:
    """A vLLM sampler without weights yet; starting one takes seconds, so tests share it: fixture `vllm_sampler`."""
    engine = replace(ENGINE, **ON_GPU) if torch.cuda.is_available() else ENGINE
    return VllmSampler(write_config(random_policy(), folder), [TOKENIZER.eos_token_id, 5], engine)

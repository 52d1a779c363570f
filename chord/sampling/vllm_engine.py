"""A vLLM engine inside this process, as a guest: it takes no processes, and what it changes of ours is put back.

Knows vLLM's options; not what is sampled. vLLM seeds global generators, replaces `torch.set_num_threads`, and writes
environment variables that children would inherit (LD_PRELOAD, LOCAL_WORLD_SIZE).
"""

import logging
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chord.provenance.files import UserError
from chord.sampling.vllm_options import ON_A_CPU, Option, check_options, vllm_version
from chord.sampling.vllm_setup import INVARIANT_FROM
from chord.sampling.vllm_worker import PolicyWeights

GUEST = {  # read by vLLM when it is imported
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process, and ends with it
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
OURS = (
    "dtype distributed_executor_backend enforce_eager enable_sleep_mode generation_config gpu_memory_utilization"
    " kv_cache_memory_bytes logprobs_mode max_model_len max_num_seqs seed skip_tokenizer_init worker_extension_cls"
)
CPU_CACHE_GB = 1.0  # of keys and values; vLLM would take a share of the host's whole memory


@dataclass(frozen=True)
class Engine:
    """How the engine is set up. `where` is what errors call these settings; `rows` are sampled at one time."""

    dtype: str
    rows: int
    context: int
    memory_share: float | None = None
    cache_gb: float | None = None
    eager: bool = True
    sleep: bool = False
    batch_invariant: bool = False
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    where: str = "vllm"


def engine_arguments(folder: Path, engine: Engine) -> dict[str, Any]:
    """What vLLM is told. Raises UserError for an option that this vLLM lacks, or that is said elsewhere.

    Log-probabilities are asked for as those of the distribution that is sampled from, after the temperature.
    """
    check_options(engine.options, f"{engine.where}.options")
    for name in engine.options:
        if name in OURS.split():
            raise UserError(f"{engine.where}.options.{name}: found an option that is set by other keys, expected none")
    said = {
        "model": str(folder),
        "load_format": "dummy",  # the weights are handed over before anything is sampled
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "dtype": engine.dtype,
        "max_model_len": engine.context,
        "max_num_seqs": engine.rows,
        "enforce_eager": engine.eager,
        "enable_sleep_mode": engine.sleep,
        "seed": 0,
        "worker_extension_cls": f"{PolicyWeights.__module__}.{PolicyWeights.__qualname__}",
    }
    if not torch.cuda.is_available():
        said |= ON_A_CPU
    cache_gb = engine.cache_gb or (None if torch.cuda.is_available() else CPU_CACHE_GB)
    if cache_gb is not None:
        said["kv_cache_memory_bytes"] = int(cache_gb * 2**30)
    if engine.memory_share is not None:
        said["gpu_memory_utilization"] = engine.memory_share
    return said | dict(engine.options)


def check_device(engine: Engine) -> None:
    """Raises UserError, by name, for what vLLM cannot do on this device."""
    if engine.sleep and not torch.cuda.is_available():
        raise UserError(f"{engine.where}.sleep: found true, expected false on a CPU: vLLM sleeps only on GPUs")
    if not engine.batch_invariant:
        return
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < INVARIANT_FROM:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
        raise UserError(
            f"{engine.where}.batch_invariant: found true, expected false on {device}: vLLM {vllm_version()} has"
            " batch-invariant kernels only for NVIDIA GPUs of compute capability 8.0 and above"
        )


def start_engine(folder: Path, engine: Engine) -> Any:
    """A vLLM `LLM` of the model whose config.json is in `folder`, without its weights. Raises UserError as above."""
    check_device(engine)
    arguments = engine_arguments(folder, engine)
    # Under torchrun each rank has an engine of its own, which must not take the ranks for parts of one.
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    arguments["distributed_executor_backend"] = "uni" if ranks == 1 else "external_launcher"
    os.environ.update(GUEST)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if engine.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    with as_guest(engine.eager):
        from vllm import LLM

        # It warns of every module without weights of its own at every hand-over; what was taken is read back instead.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)

        try:
            return LLM(**arguments)
        except (ValueError, TypeError, NotImplementedError) as error:
            found = " ".join(str(error).split())
            raise UserError(f"{engine.where}: vLLM {vllm_version()} refuses these settings: {found:.600}") from None


@contextmanager
def as_guest(eager: bool) -> Iterator[None]:
    """Within it vLLM may work; afterwards generators, environment and torch's settings are as they were.

    `eager`: nothing is compiled, also not what vLLM compiles in spite of `enforce_eager`. On CUDA torch's deterministic
    algorithms are off within, since vLLM calls some that have none: it has `batch_invariant` for the purpose.
    """
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    deterministic, on_gpu = torch.are_deterministic_algorithms_enabled(), torch.cuda.is_available()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []))
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
            for name in set(os.environ) | set(environment):
                if not name.startswith("VLLM_") and os.environ.get(name) != environment.get(name):
                    _put_back(name, environment.get(name))


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value

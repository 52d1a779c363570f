"""What vLLM is told before an engine answers benchmarks in this process: its environment, its options, their limits."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from chord.provenance.files import UserError
from chord.sampling.vllm_options import ON_A_CPU, OURS, Option, vllm_version

CPU_CACHE_BYTES = 2**30  # ours: of keys and values; vLLM would take a share of the machine's whole memory
ONE_DEVICE = "nothing: each job of answers has one device; run several jobs at once"
OURS_HERE = OURS | dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"), ONE_DEVICE)
INVARIANT_FROM = (8, 0)  # compute capability that VLLM_BATCH_INVARIANT needs


def prepare_process(threads: int, batch_invariant: bool, where: str) -> None:
    """Sets what vLLM reads when it is imported. Raises UserError for batch invariance on a device that lacks it."""
    if batch_invariant and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < INVARIANT_FROM):
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
        raise UserError(
            f"{where}: found true, expected false on {device}: vLLM {vllm_version()} has batch-invariant kernels only"
            " for NVIDIA GPUs of compute capability 8.0 and above"
        )
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_NO_USAGE_STATS="1")
    os.environ.update(DO_NOT_TRACK="1", OMP_NUM_THREADS=str(threads), VLLM_BATCH_INVARIANT=str(int(batch_invariant)))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def engine_settings(options: Mapping[str, Option], dtype: str, rows: int) -> dict[str, Any]:
    """What lm-eval's class, and through it vLLM, is told; `options` have been checked, and have the last word."""
    said: dict[str, Any] = {"dtype": dtype, "max_num_seqs": rows, "seed": 0}
    said |= {"load_format": "safetensors", "generation_config": "vllm"}
    if not torch.cuda.is_available():
        said |= {"distributed_executor_backend": "uni", "enforce_eager": True}
        said |= {"kv_cache_memory_bytes": CPU_CACHE_BYTES, **ON_A_CPU}
    return said | dict(options)

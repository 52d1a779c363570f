"""Whether two sides hold the same weights, bit for bit, without moving them: 64-bit sums of the bits of each tensor.

Sums of whole numbers have no rounding, so they are the same on every device and in every process.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

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

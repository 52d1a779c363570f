"""Handing weights to a sampler: the proof, what is said where it fails, and that all ranks hear of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from chord.records import StaleSampler
from chord.sampling.vllm_sampler import Held, checksums, combined
from chord.training.engine import World
from chord.training.weight_sync import HandOver, difference, tied_names
from tests.sampled_policy import random_policy

MODEL = random_policy(21)
TIED = tied_names(MODEL)


@dataclass
class Remembering:
    """A sampler's side of a hand-over; `lost`: what it takes is not what it goes on with."""

    dtype: torch.dtype = torch.float32
    lost: bool = False
    taken: dict[str, torch.Tensor] = field(default_factory=dict)
    version: int = -1

    def take(self, weights: Any, version: int) -> None:
        if not self.lost:
            self.taken, self.version = {name: one.detach().clone() for name, one in weights}, version

    def held(self) -> list[Held]:
        sums = checksums(self.taken.items(), self.dtype)
        return [Held(self.version, self.dtype, sums | {alias: sums[name] for alias, name in TIED.items()})]


class Ranks(World):
    """Two ranks, of which the other one found `fault`."""

    fault = ""

    def gather(self, value: Any) -> list[Any]:
        return [value, self.fault]


def hand_over(sampler: Remembering, world: World = World()) -> HandOver:  # noqa: B008
    return HandOver(sampler, world, TIED)  # pyright: ignore[reportArgumentType]


def test_a_tied_output_head_is_known_by_both_names() -> None:
    assert TIED == {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_proof_is_the_version_and_one_hash_of_what_the_sampler_holds(dtype: torch.dtype) -> None:
    proof = hand_over(Remembering(dtype)).over(MODEL.named_parameters(), 7)
    sums = checksums(MODEL.named_parameters(remove_duplicate=False), dtype)
    assert proof == {"version": 7, "weights": combined(sums)}


def test_a_hand_over_that_is_lost_stops_even_if_few_bits_changed() -> None:
    sampler = Remembering()
    hand, model = hand_over(sampler), random_policy(22)
    hand.over(model.named_parameters(), 1)
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-7
    sampler.lost = True
    with pytest.raises(StaleSampler, match=r"rank 0 holds version 1 .* 1 of 39 of them differ.*\(model.norm.weight\)"):
        hand.over(model.named_parameters(), 2)


def test_a_rank_whose_own_sampler_is_right_stops_with_the_others() -> None:
    hand = hand_over(Remembering(), world := Ranks(0, 2))
    hand.over(MODEL.named_parameters(), 1)
    object.__setattr__(world, "fault", "holds version 0 of the weights")
    with pytest.raises(StaleSampler, match="the sampler of rank 1 holds version 0"):
        hand.over(MODEL.named_parameters(), 2)


@pytest.mark.parametrize(
    ("version", "sums", "said"),
    [
        (4, "1234", ""),
        (3, "1234", "version 3 of the weights and 0 of 4 of them differ from the learner's, expected version 4"),
        (4, "1734", "1 of 4 of them differ from the learner's (b)"),
        (4, "12347", "1 of 4 of them differ from the learner's (e)"),
        (4, "123", "1 of 4 of them differ from the learner's (d)"),
        (4, "0000", "4 of 4 of them differ from the learner's (a, b, c, ...)"),
    ],
)
def test_a_difference_in_words(version: int, sums: str, said: str) -> None:
    """Weights a, b, c, d have the checksums 1, 2, 3, 4 on the learner's side."""
    held = Held(version, torch.float32, dict(zip("abcde", map(int, sums), strict=False)))
    found = difference(held, 4, {"a": 1, "b": 2, "c": 3, "d": 4})
    assert said in found and bool(found) == bool(said)

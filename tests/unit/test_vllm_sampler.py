"""vLLM as a sampler: what it holds is read back, each bit, a lost hand-over shows, what it lacks is refused by name."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from chord.errors import UserError
from chord.records import Request
from chord.sampling.vllm_sampler import CHUNK, VllmSampler, checksum, checksums, combined, engine_arguments
from chord.sampling.vllm_server import vllm_version
from tests import warm
from tests.sampled_policy import ENGINE, random_policy, write_config

pytestmark = pytest.mark.numbers

ASKED = [Request(f"r{k}", (1, 2, 3 + k % 5), k) for k in range(20)]


def weights_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters under all their names: a tied output head has two."""
    return list(model.named_parameters(remove_duplicate=False))


def test_what_the_engine_holds_is_what_was_handed_over_bit_for_bit(vllm_sampler) -> None:
    for version, seed in ((4, 11), (5, 12)):
        model = random_policy(seed)
        vllm_sampler.take(model.named_parameters(), version)
        (held,) = vllm_sampler.held()
        assert (held.version, held.dtype) == (version, torch.float32)
        assert held.checksums == checksums(weights_of(model), torch.float32)
        assert {"lm_head.weight", "model.layers.3.self_attn.k_proj.weight", "model.norm.weight"} <= set(held.checksums)


BIT_OF = ("embed_tokens", "layers.0.self_attn.v_proj", "layers.2.mlp.up_proj", "layers.3.mlp.down_proj")


@pytest.mark.parametrize("name", [f"model.{one}.weight" for one in (*BIT_OF, "layers.1.input_layernorm")])
def test_one_bit_in_any_weight_shows(vllm_sampler, name: str) -> None:
    model = random_policy(13)
    vllm_sampler.take(model.named_parameters(), 1)
    parameter = dict(weights_of(model))[name]
    with torch.no_grad():
        bits = parameter.view(torch.int32).view(-1)
        bits[bits.numel() // 2] ^= 1
    held, due = vllm_sampler.held()[0].checksums, checksums(weights_of(model), torch.float32)
    tied = {"lm_head.weight"} if "embed" in name else set()
    assert {one for one in due if held[one] != due[one]} == {name} | tied


def test_what_is_sampled_follows_the_weights_taken_last(vllm_sampler) -> None:
    model = random_policy(14)
    vllm_sampler.take(model.named_parameters(), 1)
    before = vllm_sampler.sample(ASKED, 12, 1.0)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.3)
    assert vllm_sampler.sample(ASKED, 12, 1.0) == before  # it has weights of its own
    vllm_sampler.take(model.named_parameters(), 2)
    assert vllm_sampler.sample(ASKED, 12, 1.0) != before
    vllm_sampler.rest()  # a no-op without sleep
    assert vllm_sampler.sample(ASKED[:1], 12, 1.0)


def test_vllm_by_itself_leaves_a_tied_output_head_behind(vllm_sampler) -> None:
    """The reason for `repack_tied_head`: should a later vLLM do it, this fails, and that function can go."""
    old, new = random_policy(15), random_policy(16)
    vllm_sampler.take(old.named_parameters(), 1)
    vllm_sampler.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": new.named_parameters()})
    held, due = vllm_sampler.held()[0].checksums, checksums(weights_of(new), torch.float32)
    assert {name for name in due if held[name] != due[name]} == {"lm_head.weight"}


def test_a_checksum_sees_bits_places_and_nothing_else() -> None:
    values = torch.tensor([1.0, -2.0, 0.5, 0.0])
    others = [values.flip(0), values * 1.0000001, torch.tensor([1.0, -2.0, 0.5, -0.0]), values[:3], values * 0]
    assert len({checksum(values), *map(checksum, others)}) == 6
    assert checksum(values) == checksum(values.clone()) == checksum(values.reshape(2, 2))
    matrix = torch.randn(300, 200, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert checksum(matrix.T) == checksum(matrix.T.contiguous()) != checksum(matrix)


def test_a_checksum_by_hand_and_in_parts() -> None:
    """The size, and bits times odd numbers of their places: 1, then (k * SPREAD) | 1; modulo 2^64."""
    spread, values = -7046029254386353131, torch.tensor([1, 2, 3], dtype=torch.int32).view(torch.float32)
    assert checksum(values) % 2**64 == (3 + 1 + 2 * (spread | 1) + 3 * (2 * spread | 1)) % 2**64
    long = torch.zeros(CHUNK + 2, dtype=torch.int8)
    long[-1] = 1
    assert checksum(long) % 2**64 == (CHUNK + 2 + ((CHUNK + 1) * spread | 1)) % 2**64


def test_combined_checksums_know_names_and_no_order() -> None:
    assert combined({"a": 1, "b": 2}) == combined({"b": 2, "a": 1}) != combined({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"max_num_seq": 3}}, "options.max_num_seq: found an option that vLLM VERSION lacks"),
        ({"options": {"max_num_seqs": 3}}, "execution.vllm.options.max_num_seqs: found an option that is set"),
        ({"options": {"block_size": 33}}, "execution.vllm: vLLM"),
        ({"sleep": True}, "execution.vllm.sleep: found true, expected false on a CPU"),
        ({"batch_invariant": True}, "execution.vllm.batch_invariant: found true, expected false on a CPU"),
        ({"dtype": "float12"}, "execution.vllm: vLLM"),
    ],
)
def test_what_this_vllm_or_device_lacks_is_refused_by_name(vllm_sampler, changes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(said.replace("VERSION", vllm_version()))):
        VllmSampler(write_config(random_policy(), tmp_path), [], replace(ENGINE, **changes))


def test_options_reach_vllm(tmp_path: Path) -> None:
    told = engine_arguments(tmp_path, replace(ENGINE, options={"block_size": 64}, memory_share=0.4))
    assert (told["block_size"], told["gpu_memory_utilization"], told["max_num_seqs"]) == (64, 0.4, 64)


def test_neither_worker_nor_settings_import_vllm() -> None:
    code = "import sys, chord.sampling.vllm_sampler; sys.exit('vllm' in sys.modules)"
    assert warm.run([sys.executable, "-c", code]).returncode == 0

"""The model on which DeepSpeed is measured before a training: tiny, of the same architecture, the same everywhere."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from chord.config.study import Zero
from chord.training.gradient import IDLE, pack
from chord.training.policy import as_policy, token_statistics
from chord.training.sharded import settings, tiny_like

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 56,
    "intermediate_size": 96,
    "num_hidden_layers": 28,
    "eos_token_id": 999,
    "pad_token_id": 998,
}
KINDS = {
    "as Qwen2.5-7B": Qwen2ForCausalLM(
        Qwen2Config(**SIZES, num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False)
    ),
    "as Llama-3.2-3B": LlamaForCausalLM(
        LlamaConfig(**SIZES, num_attention_heads=14, num_key_value_heads=7, tie_word_embeddings=True)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tiny_model_has_the_same_class_and_parts_and_can_be_trained(kind: str) -> None:
    model = as_policy(KINDS[kind])
    tiny, again = tiny_like(model), tiny_like(model)
    assert type(tiny) is type(model) and tiny.config.tie_word_embeddings == model.config.tie_word_embeddings
    parts = {name.replace(".27.", ".1.") for name, _ in model.named_parameters() if ".0." in name or ".27." in name}
    assert parts == {name for name, _ in tiny.named_parameters() if ".layers." in name}
    assert sum(p.numel() for p in tiny.parameters()) < 50_000
    assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), again.parameters(), strict=True))
    assert model.config.num_hidden_layers == 28
    logp = token_statistics(tiny, pack([IDLE], torch.device("cpu"), torch.float32), 8, torch.float32).logp
    assert logp.requires_grad and bool(torch.isfinite(logp).all())


def test_deepspeed_is_told_of_sums_in_float32_without_loss_scaling_and_of_one_norm() -> None:
    told = settings(Zero(stage=3, offload="optimiser"), 0.7, 10**10)
    assert (told["gradient_clipping"], told["communication_data_type"]) == (0.7, "fp32")
    assert not told["fp16"]["enabled"] and not told["bf16"]["enabled"]
    assert told["gradient_accumulation_steps"] == told["train_micro_batch_size_per_gpu"] == 1
    divided = told["zero_optimization"]
    assert (divided["stage"], divided["offload_optimizer"]["device"]) == (3, "cpu")
    assert divided["stage3_param_persistence_threshold"] == 100_000
    assert settings(Zero(stage=3), 1.0, 5_000)["zero_optimization"]["stage3_param_persistence_threshold"] == 5
    assert "offload_optimizer" not in settings(Zero(stage=1), 1.0, 5_000)["zero_optimization"]
    sizes = [settings(Zero(stage=2), 1.0, n)["zero_optimization"]["reduce_bucket_size"] for n in (5_000, 10**10)]
    assert sizes == [5_000, 500_000_000]

"""ms-swift's side of `benchmarks.against_peers`: its GRPO trainer with its own CHORD, as `swift rlhf` starts it."""

import json
from typing import Any

import torch
from swift import TrainerCallback, callbacks_map, rlhf_main
from swift.rewards import ORM, orms
from swift.rlhf_trainers import grpo_trainer
from swift.template import TemplateMeta, register_template
from transformers import AutoTokenizer, GenerationConfig
from turns import Turns, reward

turns = Turns("ms-swift", "trl", "torch", "transformers")
job = turns.job


class WaitForTurn(TrainerCallback):
    """Lets a step begin when the driver says so."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Between two steps."""
        labels = [label for row in self.trainer.chord_sft_dataset for label in row["labels"]]
        turns.note(threads=torch.get_num_threads(), expert_tokens=sum(label != -100 for label in labels))
        turns.next()


class Pay(ORM):
    """The reward that all sides have."""

    def __call__(self, completions: list[str], response_token_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward of each completion."""
        turns.note(rollout_tokens=sum(map(len, response_token_ids)))
        return [reward(completion) for completion in completions]


def chord_loss(*args: Any, **options: Any) -> torch.Tensor:
    """ms-swift's loss, noted."""
    loss = ms_swift_loss(*args, **options)
    turns.note(loss=loss.item())
    return loss


def written(name: str, conversations: list[list[dict[str, str]]]) -> str:
    """A data set as ms-swift reads it."""
    file = turns.folder / f"ms-swift-{name}.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return str(file)


def said(role: str, content: str) -> dict[str, str]:
    """One message of a chat."""
    return {"role": role, "content": content}


ms_swift_loss, grpo_trainer.compute_chord_loss = grpo_trainer.compute_chord_loss, chord_loss
callbacks_map["wait"], orms["pay"] = WaitForTurn, Pay
# ms-swift has its own template format; this template renders the same text as the model's.
tokenizer = AutoTokenizer.from_pretrained(job["model"])
asked = tokenizer.apply_chat_template([said("user", "{{QUERY}}")], add_generation_prompt=True, tokenize=False)
register_template(TemplateMeta("as-the-model", prefix=[], prompt=[asked], chat_sep=None))
# Its options name no least length of a response; the model's generation settings do.
settings = GenerationConfig.from_pretrained(job["model"])
settings.min_new_tokens = job["response_tokens"]
settings.save_pretrained(job["model"])

# Defaults but for the objective, the batch and its lengths, float32, and what all sides leave out.
options = {
    "rlhf_type": "grpo",
    "model": job["model"],
    "model_type": "llama",
    "template": "as-the-model",
    "tuner_type": "full",
    "torch_dtype": "float32",
    "dataset": written("prompts", [[said("user", one["prompt"])] for one in turns.rows("prompts")] * 100),
    "dataset_shuffle": "false",
    "train_dataloader_shuffle": "false",
    "split_dataset_ratio": 0,
    "load_from_cache_file": "false",
    "output_dir": turns.folder / "ms-swift",
    "per_device_train_batch_size": job["prompts"] * job["per_prompt"],
    "gradient_accumulation_steps": 1,
    "num_generations": job["per_prompt"],
    "max_completion_length": job["response_tokens"],
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "repetition_penalty": 1.0,
    "reward_funcs": "pay",
    "beta": 0.0,
    "loss_type": "dapo",
    "chord_sft_dataset": written(
        "traces",
        [[said("user", one["prompt"]), said("assistant", one["response"])] for one in turns.rows("traces")],
    ),
    "chord_sft_per_device_train_batch_size": job["experts"],
    "chord_enable_phi_function": "true",
    "chord_mu_warmup_steps": 0,
    "chord_mu_decay_steps": 0,
    "chord_mu_peak": job["mu"],
    "chord_mu_valley": job["mu"],
    "learning_rate": job["learning_rate"],
    "max_steps": job["steps"],
    "gradient_checkpointing": "false",
    "save_strategy": "no",
    "callbacks": "wait",
}
rlhf_main([word for name, value in options.items() for word in (f"--{name}", str(value))])

"""TRL's side of `benchmarks.against_peers`: its GRPOTrainer, with the SFT term of CHORD added in a subclass."""

import random
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from turns import Turns, reward

turns = Turns("trl", "torch", "transformers")
job = turns.job
tokenizer = AutoTokenizer.from_pretrained(job["model"])


class ChordTrainer(GRPOTrainer):
    """GRPO, and with weight mu the phi-weighted loss of expert traces, of which each step draws a batch."""

    def __init__(self, *args: Any, experts: list[tuple[list[int], list[int]]], mu: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.experts, self.mu = experts, mu

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """(1 - mu) L_GRPO + mu L_SFT."""
        loss = (1 - self.mu) * super().compute_loss(model, inputs, *args, **options) + self.mu * self.sft_loss(model)
        turns.note(loss=loss.item())
        return loss

    def sft_loss(self, model: Any) -> torch.Tensor:
        """The mean over expert tokens of -phi log p with phi = p (1 - p)."""
        rows = random.sample(self.experts, job["experts"])
        texts = [torch.tensor(prompt + response) for prompt, response in rows]
        answers = [torch.tensor([-100] * len(prompt) + response) for prompt, response in rows]
        ids = pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad_token_id)
        seen = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        labels = pad_sequence(answers, batch_first=True, padding_value=-100)[:, 1:]
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        nll = cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        p = torch.exp(-nll.detach())
        answered = labels != -100
        turns.note(expert_tokens=int(answered.sum()))
        return (p * (1 - p) * nll)[answered].mean()


class WaitForTurn(TrainerCallback):
    """Lets a step begin when the driver says so."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Between two steps."""
        turns.note(threads=torch.get_num_threads())
        turns.next()


def pay(completions: list[list[dict[str, str]]], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward of each completion."""
    turns.note(rollout_tokens=sum(map(len, completion_ids)))
    return [reward(messages[0]["content"]) for messages in completions]


def conversation(prompt: str) -> list[dict[str, str]]:
    """The prompt as a chat."""
    return [{"role": "user", "content": prompt}]


def expert(trace: dict[str, str]) -> tuple[list[int], list[int]]:
    """Tokens of a trace's prompt and response, its end token with it."""
    text = tokenizer.apply_chat_template(conversation(trace["prompt"]), add_generation_prompt=True, tokenize=False)
    response = trace["response"] + tokenizer.eos_token
    prompt_ids, response_ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, response))
    return prompt_ids, response_ids


# Defaults but for the objective, the batch and its lengths, float32, and what all sides leave out.
config = GRPOConfig(
    output_dir=str(turns.folder / "trl"),
    per_device_train_batch_size=job["prompts"] * job["per_prompt"],
    num_generations=job["per_prompt"],
    max_completion_length=job["response_tokens"],
    generation_kwargs={"min_new_tokens": job["response_tokens"]},
    learning_rate=job["learning_rate"],
    max_steps=job["steps"],
    shuffle_dataset=False,
    bf16=False,
    gradient_checkpointing=False,
    save_strategy="no",
    use_cpu=True,
)
trainer = ChordTrainer(
    model=job["model"],
    args=config,
    train_dataset=Dataset.from_list([{"prompt": conversation(one["prompt"])} for one in turns.rows("prompts")] * 100),
    processing_class=tokenizer,
    reward_funcs=pay,
    callbacks=[WaitForTurn()],
    experts=[expert(one) for one in turns.rows("traces")],
    mu=job["mu"],
)
assert trainer.model.dtype == torch.float32, f"found weights in {trainer.model.dtype}, expected float32"
trainer.train()

"""A small Llama with random weights and a character tokenizer, for studies that train their own base model."""

import math

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT = "<pad>", "<end>", "<user>", "<assistant>"
EMBEDDING_SPREAD = 0.05
RESIDUAL = ("o_proj.weight", "down_proj.weight")
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% else %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a character of `alphabet`; four special tokens; a chat template. Other characters become <unk>."""
    vocabulary = {token: index for index, token in enumerate([PAD, END, USER, ASSISTANT, "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT
    return wrapped


def blank_model(architecture: dict[str, int], tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of this architecture with weights drawn from `seed` alone.

    ours: standard deviation 1/sqrt(inputs), further divided by sqrt(2 x layers) where a layer writes to the residual
    stream, and 0.05 for the embedding. With transformers' 0.02 throughout, a model this narrow learned nothing in the
    demo's 400 steps; so drawn, it answered two thirds of three-digit sums.
    """
    pad, end = (tokenizer.get_vocab()[token] for token in (PAD, END))
    sizes = {**architecture, "vocab_size": len(tokenizer), "pad_token_id": pad, "eos_token_id": end}
    config = LlamaConfig.from_dict({**sizes, "bos_token_id": None, "tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):  # transformers draws initial weights from the global generator
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() < 2:
            nn.init.ones_(parameter)
            continue
        spread = EMBEDDING_SPREAD if "embed" in name else 1 / math.sqrt(parameter.shape[1])
        if name.endswith(RESIDUAL):
            spread /= math.sqrt(2 * config.num_hidden_layers)
        nn.init.normal_(parameter, std=spread, generator=generator)
    model.generation_config.pad_token_id = pad
    model.generation_config.eos_token_id = end
    return model

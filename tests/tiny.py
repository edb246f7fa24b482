"""Tiny random models of many families, and a tokenizer to go with them.

Three blocks of width 32 in fp32: a call takes milliseconds, and what is true of the wiring of a
family is true of these. No model of them is any good at language.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCAB = 97
PAD, EOS = 0, 1

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # logits that differ by some nats, as trained ones do
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
SLIDING = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, **SLIDING},
    "gemma3_text": {"head_dim": 8, "tie_word_embeddings": False, **SLIDING},
    "gpt_neox": {"num_key_value_heads": None},
    "granite": {"logits_scaling": 0.5},
    "cohere": {"logit_scale": 0.5},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, **SLIDING},
    "mixtral": {"num_local_experts": 4},
}


def tiny(
    family: str, *, seed: int = 0, attn_implementation: str | None = None, **overrides: Any
) -> PreTrainedModel:
    """Return a random model of a family; `overrides` go into its config."""
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES.get(family, {}), **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attn_implementation
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases, which start as ones and zeros
                    parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def tiny_seeing(seed: int = 0) -> PreTrainedModel:
    """Return a random model of a family that also sees, and gives each token several positions."""
    text = SHAPE | {
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }
    sight = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    sight |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    config = AutoConfig.for_model("qwen3_vl", text_config=text, vision_config=sight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    return model.eval()


def batch(*prompts: Sequence[int]) -> dict[str, Tensor]:
    """Return prompts as `generate` takes them, padded on the left."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[PAD] * gap + list(prompt) for gap, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in padding]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per printable character; it fits the tiny models."""
    characters = [chr(code) for code in range(ord(" "), ord("~"))]
    words = ["<pad>", "<eos>", "<unk>", *characters]
    tokenizer = Tokenizer(
        models.WordLevel({word: token for token, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )

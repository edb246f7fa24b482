"""Tiny random models that vLLM runs on a CPU (which wants head_dim 32 at least)."""

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MixtralConfig, Qwen2Config

SHAPE = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Large enough that the model is sure of something, and that its first state is not its last.
    "initializer_range": 0.15,
}
FAMILIES = {
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=False),
    # Caps its logits; shows no inner states.
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=32, query_pre_attn_scalar=32),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
}


def save(family, folder):
    """Write a model of a family and return where."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    model.save_pretrained(folder)
    return folder

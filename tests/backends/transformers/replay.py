"""What a call should have done, from one plain forward pass over what it returned.

The formula is written out with the definition, two projections and the family's own head:

    fused = (1+β)·head(deep) − β·head(predicted)      then the model's own scale and cap
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esamp.backends.transformers import ESampOutput
from esamp.explorer import ESamp
from esamp.fusion import fuse_logits
from esamp.generation import Sampling
from esamp.layout import Layout
from esamp.sampling import NEG_INF, min_p, top_k, top_p


@dataclass
class Replayed:
    """Per row and token; NaN beyond a row's length, as in `ESampOutput`."""

    logprobs: Tensor
    reference_logprobs: Tensor
    novelty: Tensor


@torch.no_grad()
def replay(
    model: PreTrainedModel,
    output: ESampOutput,
    mask: Tensor,
    esamp: ESamp,
    sampling: Sampling,
    groups: list[int],
) -> Replayed:
    """Decode the returned sequences once more, teacher-forced, with the formula."""
    steps = output.logprobs.shape[1]
    shallow, deep = teacher_forced(model, output.sequences, mask, steps, esamp.layer)
    tokens = output.sequences[:, -steps:]
    layout = Layout.of(groups, max(groups) + 1)
    bank = esamp.distiller.open(layout.groups, deep.shape[-1], "cpu")
    columns: list[tuple[Tensor, ...]] = []
    for step in range(steps):
        predicted = bank.predict(shallow[:, step], layout)
        beta = esamp.beta if step > 0 else 0.0
        head = model.get_output_embeddings()
        reference = behind_head(model, head(deep[:, step])) / sampling.temperature
        fused = behind_head(model, fuse_logits(head(deep[:, step]), head(predicted), beta))
        fused = fused / sampling.temperature
        if esamp.truncation == "reference":
            fused = fused.masked_fill(truncate(reference, sampling) == NEG_INF, NEG_INF)
        else:
            fused = truncate(fused, sampling)
        novelty = (deep[:, step] - predicted).norm(dim=-1) / deep[:, step].norm(dim=-1)
        if step == 0:
            novelty = novelty.fill_(torch.nan)
        values = (of_tokens(fused, tokens[:, step]), of_tokens(reference, tokens[:, step]), novelty)
        drawing = step < output.lengths
        columns.append(tuple(value.where(drawing, torch.nan) for value in values))
        if step > 0:
            bank.learn(shallow[:, step], deep[:, step], drawing, layout)
    return Replayed(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


@torch.no_grad()
def teacher_forced(
    model: PreTrainedModel, sequences: Tensor, mask: Tensor, steps: int, layer: int = 1
) -> tuple[Tensor, Tensor]:
    """Shallow and deep states that the drawn tokens were drawn from: [rows, steps, hidden]."""
    mask = torch.cat([mask, mask.new_ones(len(mask), steps)], dim=1)
    hidden = model(
        input_ids=sequences,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return hidden[layer][:, -steps - 1 : -1], hidden[-1][:, -steps - 1 : -1]


def behind_head(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """What each family does to the head's output."""
    config = model.config
    if config.model_type == "granite":
        return logits / config.logits_scaling
    if config.model_type == "cohere":
        return logits * config.logit_scale
    if config.model_type == "gemma2":
        cap = config.final_logit_softcapping
        return cap * torch.tanh(logits / cap)
    return logits


def truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    return min_p(top_p(top_k(logits, sampling.top_k), sampling.top_p), sampling.min_p)


def of_tokens(scores: Tensor, tokens: Tensor) -> Tensor:
    return scores.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]


def with_head_bias(model: PreTrainedModel) -> PreTrainedModel:
    """Give the head a bias of some nats."""
    head = model.get_output_embeddings()
    head.bias = nn.Parameter(torch.randn(len(head.weight), generator=torch.Generator()))
    return model

r"""The fusion formula, in hidden space and on survivors.

    fused logits = (1+β)·W·deep − β·W·predicted = W·(deep + β·residual)

with W the frozen LM head and residual = deep − predicted (paper, equations 5 and 6, and appendix
E.2). The right-hand form costs no second vocabulary projection. It is exact for an affine head: a
bias cancels, a scale stays. Logits that the model caps (Gemma 2) are fused before the cap.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.method import Push, Step


def push_states(
    deep: Float[Tensor, "rows hidden"],
    residual: Float[Tensor, "rows hidden"],
    beta: Float[Tensor, "*#rows"],
) -> Float[Tensor, "rows hidden"]:
    """Return deep + β·residual, the state whose logits are the fused ones; β for all or per row."""
    return deep + beta[..., None] * residual


def onto(
    states: Float[Tensor, "rows hidden"], axes: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows hidden"]:
    """Return the projection of each state on its axis; zero where the axis is zero."""
    unit = torch.nn.functional.normalize(axes, dim=-1)
    return (states * unit).sum(dim=-1, keepdim=True) * unit


def across(
    states: Float[Tensor, "rows hidden"], axes: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows hidden"]:
    """Return what is left of each state at right angles to its axis."""
    return states - onto(states, axes)


def fit(push: Push, step: Step, dtype: torch.dtype) -> Push:
    """Leave rows alone whose pushed state is too large for the model's dtype (float16: 65504)."""
    if dtype != torch.float16:
        return push
    fits = push.states.to(dtype).isfinite().all(dim=-1)
    states = torch.where(fits[:, None], push.states, step.deep)
    novelty = None if push.novelty is None else push.novelty.where(fits, torch.nan)
    return Push(states, novelty)


def fuse_logits(
    reference: Float[Tensor, "rows vocab"],
    distilled: Float[Tensor, "rows vocab"],
    beta: float,
) -> Float[Tensor, "rows vocab"]:
    """Return (1+β)·reference − β·distilled: the definition, with two projections (equation 6)."""
    return (1 + beta) * reference - beta * distilled


def fuse_survivors(
    processed: Float[Tensor, "rows vocab"],
    reference: Float[Tensor, "rows vocab"],
    fused: Float[Tensor, "rows vocab"],
    temperature: float,
) -> Float[Tensor, "rows vocab"]:
    """Move the survivors of truncation on the reference to the fused logits.

    The paper's order (algorithm 1, lines 16 and 17): filter the reference, fuse what is left.

    Args:
        processed: Reference logits after penalties, temperature and truncation; −inf: cut away.
        reference: Reference logits as the head gave them.
        fused: Fused logits as the head gave them.
        temperature: The temperature within `processed`; it applies to both terms, once.
    """
    moved = processed + (fused - reference) / temperature
    return torch.where(torch.isneginf(processed), processed, moved)


def move_survivors(
    processed: Float[Tensor, "rows vocab"],
    tokens: Int[Tensor, "rows few"],
    moves: Float[Tensor, "rows few"],
    temperature: float,
) -> Float[Tensor, "rows vocab"]:
    """Do what `fuse_survivors` does where few survive, from the logits of those alone.

    Args:
        processed: As there.
        tokens: Different tokens of each row, all survivors among them.
        moves: Fused − reference of those tokens.
        temperature: As there.
    """
    # What is cut away stays at −inf, whatever is added.
    return processed.scatter_add(1, tokens, moves / temperature)

"""The model's side: shallow states travel beside deep ones, and the head asks which to read.

The instance's class is swapped for a subclass whose forward returns `cat([deep, shallow])`. The
engine itself then carries shallow to the rows that are sampled, through padding, chunked prefill
and graphs; `compute_logits` takes the two apart again.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from esamp.backends.vllm.pilot import Pilot
from esamp.errors import ModelError

LIBRARY = torch.library.Library("esamp", "FRAGMENT")
LIBRARY.define("tap(Tensor(a!) buffer, Tensor hidden, Tensor? residual) -> ()")


def _tap(
    buffer: Float[Tensor, "most hidden"],
    hidden: Float[Tensor, "tokens hidden"],
    residual: Float[Tensor, "tokens hidden"] | None,
) -> None:
    """Copy the residual stream after a layer into a buffer that outlives the graph."""
    state = hidden if residual is None else hidden + residual
    buffer[: len(state)].copy_(state)


def _tap_nothing(buffer: Tensor, hidden: Tensor, residual: Tensor | None) -> None:
    """Stand in for `_tap` while a graph is traced."""


LIBRARY.impl("tap", _tap, "CompositeExplicitAutograd")
LIBRARY.impl("tap", _tap_nothing, "Meta")


class Steered:
    """Mixed in front of a model's class, on the one instance that is steered."""

    esamp_pilot: Pilot
    esamp_buffer: Tensor | None

    def __call__(self, *args: Any, **kwargs: Any) -> Float[Tensor, "tokens twice_hidden"]:
        """Return deep and shallow side by side."""
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        with self.esamp_pilot.clock.own():
            if self.esamp_buffer is None:
                deep, (shallow,) = output
            else:
                deep, shallow = output, self.esamp_buffer[: len(output)]
            return torch.cat([deep, shallow], dim=-1)

    def compute_logits(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return logits of the states that the pilot chooses; outside a step, of deep."""
        pilot = self.esamp_pilot
        with pilot.clock.own():
            # A copy, so that the head sees what it would see without us, strides included.
            deep, shallow = (half.contiguous() for half in hidden_states.chunk(2, dim=-1))
            reads = pilot.show(shallow, deep) if pilot.expects else None
        project = super().compute_logits  # type: ignore[misc]
        logits = project(deep if reads is None else reads.states, *args, **kwargs)
        if reads is not None and reads.pushed is not None:
            pushed = reads.pushed
            pilot.keep(lambda: project(pushed, *args, **kwargs), logits)
        elif pilot.profiling:
            project(deep, *args, **kwargs).float()  # the most that a step may need beside logits
        return logits


class Tapped:
    """Mixed in front of the first layer's class, in models that show no inner state."""

    esamp_buffer: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer and copy what it hands on."""
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        hidden, residual = output if isinstance(output, tuple) else (output, None)
        torch.ops.esamp.tap(self.esamp_buffer, hidden, residual)
        return output


def steer_model(model: Any, pilot: Pilot, layer: int, most_tokens: int) -> None:
    """Make a loaded model show its shallow states and ask the pilot.

    Args:
        model: The instance that the runner calls, before its first forward pass, which is compiled.
        pilot: Who chooses what the head reads.
        layer: Block whose output is shallow; 1 is the first.
        most_tokens: Tokens of the largest batch.

    Raises:
        ModelError: The model's first block cannot be found.
    """
    buffer = None
    if getattr(model, "supports_eagle3", False):
        model.set_aux_hidden_state_layers((layer,))
    else:
        block = find_block(model, layer)
        weight = next(model.parameters())
        hidden = pilot.hidden
        buffer = torch.zeros(most_tokens, hidden, dtype=weight.dtype, device=weight.device)
        block.esamp_buffer = buffer
        _mix_in(block, Tapped)
    object.__setattr__(model, "esamp_pilot", pilot)
    object.__setattr__(model, "esamp_buffer", buffer)
    _mix_in(model, Steered)


def find_block(model: Any, layer: int) -> nn.Module:
    """Return a decoder block by its number, 1 the first.

    Raises:
        ModelError: There is no list of blocks where families keep it.
    """
    language: Any = model
    if hasattr(model, "get_language_model"):
        language = model.get_language_model()
    for path in ("model.layers", "layers", "transformer.h", "model.decoder.layers"):
        blocks: Any = language
        for name in path.split("."):
            blocks = getattr(blocks, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) >= layer:
            return blocks[layer - 1]
    raise ModelError(
        f"{type(model).__name__} neither shows inner states (SupportsEagle3) nor keeps its blocks "
        "where others do: use a model of another family, or --model-impl transformers"
    )


def _mix_in(module: nn.Module, mixin: type) -> None:
    """Swap the class of one instance: what asks for its class or protocols still finds them."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})

"""Where a Transformers model shows its states, and how the head is made to read others.

Hooks stay on the model for the time of one call only. They act on the first block's output
(shallow) and on the head's input (deep), so that everything behind the head, a bias, a scale or a
cap, is the model's own code, whatever the family.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from esamp.errors import ModelError
from esamp.method import Norm, Projection


class Reads(NamedTuple):
    """What the head is to read in a forward pass."""

    states: Float[Tensor, "rows hidden"] | None
    """States to read instead of the model's own; None: its own."""
    reference: bool
    """Whether to read the model's own state too, as a second projection."""


Choose = Callable[[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]], Reads]
"""From shallow and deep, at the last position and in the model's dtype, to what the head reads."""


class Taps:
    """Hooks on one block and on the head, active only within `armed`."""

    def __init__(self, model: PreTrainedModel, layer: int) -> None:
        self._head = find_head(model)
        self._block = find_block(model, layer)
        self._choose: Choose | None = None
        self._copies: Int[Tensor, " rows"] | None = None
        self._thread = 0
        self._shallow: Tensor | None = None
        self._second: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks on the model."""
        handles = [
            self._block.register_forward_hook(self._on_block),
            self._head.register_forward_pre_hook(self._before_head),
            self._head.register_forward_hook(self._after_head),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def armed(self, choose: Choose, copies: Int[Tensor, " rows"] | None = None) -> Iterator[None]:
        """Let `choose` decide what the head reads in one forward pass.

        Other forward passes of the same model, those of guidance processors or of other threads,
        go untouched.

        Args:
            choose: Sees the states of all rows.
            copies: The row of the pass that each row is a copy of, where the pass has fewer. From
                the head on there are all.
        """
        self._choose, self._thread = choose, threading.get_ident()
        self._copies = copies
        try:
            yield
        finally:
            self._choose = self._copies = self._shallow = self._second = None

    def _chooser(self) -> Choose | None:
        return self._choose if threading.get_ident() == self._thread else None

    def _on_block(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._chooser() is not None:
            self._shallow = first_tensor(output)[:, -1]

    def _before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        choose = self._chooser()
        if choose is None:
            return None
        deep = args[0][:, -1]
        assert self._shallow is not None, "the block runs before the head"
        # Parts of a model may live on different devices; the head's is where sampling happens.
        shallow, own = self._shallow.to(deep.device), None
        if self._copies is not None:
            copies = self._copies.to(deep.device)
            shallow, deep = shallow[copies], deep[copies]
            own = (deep[:, None],)
        reads = choose(shallow, deep)
        if reads.states is None:
            return own
        states = reads.states.to(deep.dtype)[:, None]
        if not reads.reference:
            return (states,)
        # The head reads its own state first, in a pass of the usual shape, so that rows which are
        # not steered get bit for bit what plain decoding gives them.
        self._second = states
        return own

    def _after_head(
        self, module: nn.Module, args: tuple[Tensor, ...], logits: Tensor
    ) -> Tensor | None:
        if self._chooser() is None or self._second is None:
            return None
        states, self._second = self._second, None
        return torch.cat([logits[:, -1:], module.forward(states)], dim=1)


class Head(NamedTuple):
    """What callers need to know of the LM head."""

    device: torch.device
    width: int


def describe_head(model: PreTrainedModel) -> Head:
    """Return where the head is, and with it deep states, distillers and logits; and its width."""
    weight = find_head(model).weight
    assert isinstance(weight, Tensor), "an LM head has a weight matrix, quantised or not"
    return Head(weight.device, model.config.get_text_config(decoder=True).hidden_size)


def find_head(model: PreTrainedModel) -> nn.Module:
    """Return the LM head.

    Raises:
        ModelError: The model has none.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings, so there is no LM head to steer: "
            "load it as a causal language model (AutoModelForCausalLM)"
        )
    return head


def find_block(model: PreTrainedModel, layer: int) -> nn.Module:
    """Return block number `layer`, counted from 1.

    Raises:
        ModelError: The blocks cannot be found, or there are fewer.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    if not 1 <= layer <= count:
        raise ModelError(
            f"layer is {layer}, and {type(model).__name__} has {count} blocks: give 1 to {count}"
        )
    block: nn.Module = find_blocks(model).blocks[layer - 1]
    return block


class Blocks(NamedTuple):
    """The blocks of a model, and the module that runs them."""

    blocks: nn.ModuleList
    owner: nn.Module


def find_blocks(model: PreTrainedModel) -> Blocks:
    """Return all blocks.

    Raises:
        ModelError: They cannot be found.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    decoder = model.get_decoder()
    for owner in decoder.modules():
        for module in owner.children():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return Blocks(module, owner)
    raise ModelError(
        f"{type(decoder).__name__} keeps its {count} blocks in no list of that length: ESamp "
        "cannot find the first block's output in it"
    )


def first_tensor(output: Any) -> Tensor:
    """Return a block's hidden state, which some families wrap in a tuple."""
    return output if isinstance(output, Tensor) else output[0]


class Parts(NamedTuple):
    """What a method may use of a model; None where it is not what the model does."""

    head: Projection | None
    head_rows: "HeadRows | None"
    norm: Norm | None


@torch.no_grad()
def check_states(model: PreTrainedModel, layer: int) -> Parts:
    """Check on one short forward pass that the hooks see what ESamp needs.

    Returns:
        The head and the final norm, which are tried on the same pass.

    Raises:
        ModelError: The head's input is not the last hidden state, a block's output is not the
            hidden state of that number, or the states are not finite.
    """
    seen: dict[object, Tensor] = {}
    here = threading.get_ident()

    def note(name: object, states: Any) -> None:
        if threading.get_ident() == here:  # another thread may be decoding on the model
            seen[name] = first_tensor(states)

    def note_output(name: object) -> Callable[..., None]:
        return lambda _module, _args, output: note(name, output)

    owner, head = find_blocks(model).owner, find_head(model)
    handles = [
        find_block(model, layer).register_forward_hook(note_output("shallow")),
        head.register_forward_pre_hook(lambda _module, args: note("deep", args[0])),
        head.register_forward_hook(note_output("head")),
        *(
            child.register_forward_hook(note_output(child))
            for child in owner.children()
            if not isinstance(child, nn.ModuleList)
        ),
    ]
    probe = torch.tensor([[0, 1]], device=model.get_input_embeddings().weight.device)
    try:
        shown = model(input_ids=probe, use_cache=False, output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    hidden = shown.hidden_states
    _check_seen(type(model).__name__, layer, seen, hidden)
    norms = [
        child for child in owner.children() if child in seen and _same(seen[child], hidden[-1])
    ]
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    behind = _find_behind(seen["head"], shown.logits, cap)
    return Parts(
        head=None if behind is None else _projection(head, behind, seen["head"].dtype),
        head_rows=None if behind is None else _head_rows(head, behind),
        norm=_norm(norms[-1], hidden[-1].dtype) if norms else None,
    )


def _check_seen(
    family: str, layer: int, seen: dict[object, Tensor], hidden: tuple[Tensor, ...]
) -> None:
    if not torch.isfinite(hidden[-1]).all():
        raise ModelError(
            f"{family} gives states that are not finite for a two-token prompt: its weights are "
            "damaged, or do not fit its dtype; load them again, or try --dtype float32"
        )
    if not _same(seen["deep"], hidden[-1]):
        raise ModelError(
            f"the head of {family} does not read the model's last hidden state, so fusing in "
            "hidden space would not give the fused logits: ESamp cannot steer this family"
        )
    if seen["shallow"].shape != seen["deep"].shape:
        raise ModelError(
            f"{family} has shallow states of width {seen['shallow'].shape[-1]} and deep ones of "
            f"width {seen['deep'].shape[-1]}: ESamp needs the same width"
        )
    last = layer == len(hidden) - 1
    if not last and not _same(seen["shallow"], hidden[layer]):
        raise ModelError(
            f"block {layer} of {family} does not give hidden state {layer}: ESamp cannot read its "
            "shallow state"
        )


class _Behind(NamedTuple):
    """What a family does to the head's output: a scale, then a cap if there is one."""

    scale: float
    cap: float | None

    def __call__(self, values: Tensor) -> Tensor:
        values = self.scale * values
        return values if self.cap is None else self.cap * torch.tanh(values / self.cap)


def _find_behind(
    raw: Float[Tensor, "1 2 raw"], logits: Float[Tensor, "1 2 vocab"], cap: float | None
) -> _Behind | None:
    """Return what stands behind the head, found by what it did in a probe.

    That is nothing, a cap, or a scale, which families give different names; None: something else.
    """
    if raw.shape != logits.shape:
        return None
    raw, logits = raw.float(), logits.to(raw.device, torch.float32)
    capped = _Behind(1.0, cap)
    if _close(capped(raw), logits):
        return capped
    scaled = _Behind(float((raw * logits).sum() / raw.square().sum()), None)
    return scaled if _close(scaled(raw), logits) else None


def _projection(head: nn.Module, behind: _Behind, dtype: torch.dtype) -> Projection:
    def project(states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        # Not the module itself: its hooks, ours among them, belong to the model's own passes.
        return behind(head.forward(states.to(dtype)).float())

    return project


@dataclass(frozen=True)
class HeadRows:
    """The rows of a plain linear head, by token: logits of a few tokens without the others."""

    weight: Float[Tensor, "vocab hidden"]
    scale: float

    @property
    def vocab(self) -> int:
        """How many rows it has."""
        return len(self.weight)

    def change(
        self, change: Float[Tensor, "rows hidden"], tokens: Int[Tensor, "rows few"]
    ) -> Float[Tensor, "rows few"]:
        """Return by how much some logits of each row change with its state, in fp32.

        A bias cancels. The difference is projected, not the two states, so no digits are lost in
        logits that are large beside it.
        """
        rows = self.weight[tokens.to(self.weight.device)].float()
        return self.scale * (rows @ change.to(rows.device)[:, :, None])[..., 0]


def _head_rows(head: nn.Module, behind: _Behind) -> HeadRows | None:
    # Subclasses may be quantised, adapted or split over devices; so may the weight.
    if not isinstance(head, nn.Linear) or type(head) is not nn.Linear:
        return None
    if type(head.weight) is not nn.Parameter or head.weight.is_meta or behind.cap is not None:
        return None
    return HeadRows(head.weight.detach(), behind.scale)


def _norm(norm: nn.Module, dtype: torch.dtype) -> Norm:
    def apply(states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        return norm.forward(states.to(dtype)).to(states.device, torch.float32)

    return apply


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether logits are the same but for the rounding of half precision."""
    return bool((one - other).abs().max() <= 0.01 * other.abs().max())


def _same(seen: Tensor, expected: Tensor) -> bool:
    return seen.shape == expected.shape and torch.equal(seen, expected.to(seen.device))

"""Adapter for vLLM's model runner V2: the default on GPUs.

`sample` calls the head and the sampler for the rows of `InputBatch`; drafts that are verified have
rows of their own. Logits processors run before temperature, min-p, top-k and top-p: so for rows
that are fused on survivors our processor, the last in the list, takes these over from the slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.backends.vllm.pilot import Pilot
from esamp.layout import upload

TOUCHED = (
    "execute_model",
    "sample_tokens",
    "sample",
    "req_states.index_to_req_id",
    "sampler.logits_processors",
    "sampler.sampling_states.top_k",
    "sampler.sampling_states.top_p",
    "sampler.sampling_states.min_p",
)
"""What must be there on the runner."""


def attach(runner: Any, pilot: Pilot) -> None:
    """Hook the pilot into a runner whose model is loaded."""
    execute, sample, sample_tokens = runner.execute_model, runner.sample, runner.sample_tokens
    accepted: Bool[Tensor, " rows"] | None = None

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        with pilot.clock.step():
            if not kwargs.get("dummy_run", False):
                pilot.begin(scheduler_output)
            return execute(scheduler_output, *args, **kwargs)

    def sample_rows(hidden_states: Tensor, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal accepted
        with pilot.expecting(lambda: rows_of(input_batch)):
            output = sample(hidden_states, input_batch, *args, **kwargs)
        accepted = accepted_rows(input_batch, output[1]) if input_batch.num_draft_tokens else None
        return output

    def sample_and_learn(*args: Any, **kwargs: Any) -> Any:
        with pilot.clock.step():
            # The copy of the tokens to the host is under way when we begin to learn.
            output = sample_tokens(*args, **kwargs)
            pilot.end(accepted)
            return output

    runner.execute_model, runner.sample = execute_model, sample_rows
    runner.sample_tokens = sample_and_learn
    runner.sampler.logits_processors.append(SurvivorFusion(runner, pilot))


def rows_of(batch: Any) -> Sequence[str]:
    """Return the request of each row that reaches the head."""
    requests: Sequence[str] = batch.req_ids
    if not batch.num_draft_tokens:
        return requests
    return [requests[place] for place in places_of(batch)]


def places_of(batch: Any) -> list[int]:
    """Return the batch place of each row's request."""
    counts = (batch.cu_num_logits_np[1:] - batch.cu_num_logits_np[:-1]).tolist()
    return [place for place, count in enumerate(counts) for _ in range(count)]


def accepted_rows(batch: Any, num_sampled: Int[Tensor, " requests"]) -> Bool[Tensor, " rows"]:
    """Return which rows' draws count: those up to the first rejected draft."""
    of_row = num_sampled[upload(places_of(batch), torch.long, num_sampled.device)]
    accepted: Tensor = batch.expanded_local_pos < of_row
    return accepted


@dataclass(frozen=True, kw_only=True)
class Truncating:
    """What a slot asked for, and we took over."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """The same for the rows of a step; neutral in rows that are not ours."""

    key: tuple[Any, ...]
    ours: Bool[Tensor, "rows 1"]
    temperature: Float[Tensor, "rows 1"]
    log_min_p: Float[Tensor, "rows 1"]
    top_k: Int[Tensor, " rows"]
    top_p: Float[Tensor, " rows"]


class SurvivorFusion:
    """A logits processor that truncates and fuses rows whose reference is judged."""

    def __init__(self, runner: Any, pilot: Pilot) -> None:
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

        self._truncate = apply_top_k_top_p
        self._states = runner.sampler.sampling_states
        self._vocab: int = runner.vocab_size
        self._requests = runner.req_states.index_to_req_id
        self._pilot = pilot
        self._slots: dict[int, Truncating] = {}
        self._version = 0
        self._cached: Truncation | None = None

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take truncation over from a slot, if its request is fused on survivors."""
        self._version += 1
        self._slots.pop(req_idx, None)
        member = self._pilot.roster.members.get(self._requests[req_idx])
        if member is None or not member.reference:
            return False
        states, off = self._states, self._vocab
        asked = sampling_params
        self._slots[req_idx] = Truncating(
            temperature=asked.temperature,
            top_k=min(asked.top_k, off) if asked.top_k > 0 else off,
            top_p=asked.top_p,
            min_p=asked.min_p,
        )
        states.top_k.np[req_idx] = off
        states.top_p.np[req_idx] = 1.0
        states.min_p.np[req_idx] = 0.0
        return True

    def apply_staged_writes(self) -> None:
        """Nothing is staged."""

    def apply(self, logits: Float[Tensor, "rows vocab"], ctx: Any) -> Float[Tensor, "rows vocab"]:
        """Truncate our rows as the sampler would, and fuse what survives."""
        if not any(slot in self._slots for slot in ctx.idx_mapping_np.tolist()):
            return logits
        with self._pilot.clock.own():
            rows = self._truncation(ctx, len(logits))
            kept = self._kept(logits, rows)
            truncated = logits.masked_fill(rows.ours & ~kept, float("-inf"))
        return self._pilot.fuse(truncated, scaled=False) if self._pilot.fuses else truncated

    def _kept(self, logits: Tensor, rows: Truncation) -> Bool[Tensor, "rows vocab"]:
        scaled = logits / rows.temperature
        least = scaled.amax(dim=-1, keepdim=True) + rows.log_min_p
        scaled = scaled.masked_fill_(scaled < least, float("-inf"))
        kept: Tensor = self._truncate(scaled, rows.top_k, rows.top_p) > float("-inf")
        return kept

    def _truncation(self, ctx: Any, rows: int) -> Truncation:
        """Lay out what each row asked for; drafts' rows are told apart on the device."""
        slots = ctx.idx_mapping_np.tolist()
        key = (self._version, rows, tuple(slots))
        if self._cached is not None and self._cached.key == key and rows == len(slots):
            return self._cached
        neutral = Truncating(temperature=1.0, top_k=self._vocab, top_p=1.0, min_p=0.0)
        device = ctx.idx_mapping.device
        asked = [self._slots.get(slot, neutral) for slot in slots]
        by_slot = [
            upload([slot in self._slots for slot in slots], torch.bool, device),
            upload([each.temperature for each in asked], torch.float32, device),
            upload([each.min_p for each in asked], torch.float32, device).log(),
            upload([each.top_k for each in asked], torch.int32, device),
            upload([each.top_p for each in asked], torch.float32, device),
        ]
        if rows != len(slots):
            # Row → batch place: the one place whose slot is the row's.
            same = ctx.expanded_idx_mapping[:, None] == ctx.idx_mapping[None, :]
            places = same.int().argmax(dim=1)
            by_slot = [column[places] for column in by_slot]
        ours, temperature, log_min_p, top_k, top_p = by_slot
        self._cached = Truncation(
            key=key,
            ours=ours[:, None],
            temperature=temperature[:, None],
            log_min_p=log_min_p[:, None],
            top_k=top_k,
            top_p=top_p,
        )
        return self._cached

"""Which requests are steered, in which group, and how far each is. Host bookkeeping only.

Both model runners are handed the scheduler's output before a step. It says all that is needed:
which requests are new, scheduled and finished, and how many tokens of each are computed. A group
lives from its first request to its last; a preempted request is not finished, and keeps it.

Groups stand in the first slots of the bank, so that a step works on open ones only: when a group
closes, the last one takes its slot.
"""

import logging
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch

from esamp.backends.vllm.parameters import RequestSettings
from esamp.distiller import Bank
from esamp.errors import UsageError
from esamp.explorer import ESamp
from esamp.layout import upload

logger = logging.getLogger("vllm.esamp")

SIBLING = re.compile(r"\d+_(.+)", re.DOTALL)
"""vLLM names the children of an n=K request "0_parent", "1_parent", …"""

WARM_UP = ("_warmup_", "_v2_mixed_warmup_")
"""How the names of requests begin that vLLM makes up at start, so that kernels are compiled."""

READ_OF_STEP = (
    "finished_req_ids",
    "num_scheduled_tokens",
    "scheduled_new_reqs",
    "scheduled_cached_reqs",
)
READ_OF_NEW = (
    "req_id",
    "prompt_len",
    "prefill_token_ids",
    "num_computed_tokens",
    "sampling_params",
    "lora_request",
)
READ_OF_CACHED = ("req_ids", "resumed_req_ids", "num_computed_tokens", "num_output_tokens")
"""What is read of the scheduler's output; the plugin looks for it at start."""

LEAST_TEMPERATURE = 1e-5
"""Below it vLLM is greedy, and greedy rows are never steered."""


@dataclass(kw_only=True)
class Group:
    """Requests that share a distiller."""

    key: Hashable
    slot: int | None
    """Where its distiller is; None where no slot was free when its first request came."""
    members: int = 0


@dataclass(kw_only=True)
class Member:
    """A request that is steered."""

    beta: float
    reference: bool
    """Whether truncation or a penalty judges its unsteered logits: it is fused after them."""
    sampling: Any
    """vLLM's `SamplingParams`."""
    group: Group
    prompt: int
    """Tokens of its prompt."""
    known: int
    """Tokens that were there when it was last (re)started: a prefill draws nothing before that."""
    seen: int = 0
    """Tokens that the model has read after this step."""

    @property
    def drawn(self) -> int:
        """Tokens that were drawn before this step's."""
        return self.seen - self.prompt

    @property
    def steered(self) -> bool:
        """Whether this step draws a token of it that is not its first."""
        return self.seen >= self.known and self.seen > self.prompt


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A request that comes, where it is to be steered."""

    settings: RequestSettings
    key: Hashable
    """Its group's."""


class Roster:
    """The steered requests of an engine, and their groups."""

    def __init__(self, defaults: ESamp, capacity: int, bank: Bank, device: Any) -> None:
        self._defaults = defaults
        self._capacity = capacity
        self._bank = bank
        self._device = device
        self.members: dict[str, Member] = {}
        self._groups: dict[Hashable, Group] = {}
        self._slots: list[Group] = []
        self._told = False
        self.version = 0
        """Changes with every change of members or slots."""

    @property
    def open_groups(self) -> int:
        """Groups that have a distiller."""
        return len(self._slots)

    def update(self, output: Any) -> None:
        """Read a `SchedulerOutput`, before the step that it describes."""
        finished = output.finished_req_ids
        # In one order on every rank: slots must agree.
        emptied = [group for request in sorted(finished) if (group := self._leave(request))]
        arrivals = [(new, self._read(new)) for new in output.scheduled_new_reqs]
        # Where an engine has no room for all samples of a prompt, the next ones come in the very
        # step that tells of the end of those before, and inherit. A name that comes again does not.
        heirs = {who.key for new, who in arrivals if who and new.req_id not in finished}
        for group in emptied:
            if group.slot is None or group.key not in heirs:
                self._close(group)
        scheduled = output.num_scheduled_tokens
        for new, who in arrivals:
            self._enter(new, who)
            member = self.members.get(new.req_id)
            if member is not None:
                member.seen = new.num_computed_tokens + scheduled[new.req_id]
        cached = output.scheduled_cached_reqs
        for place, request in enumerate(cached.req_ids):
            member = self.members.get(request)
            if member is None:
                continue
            if request in cached.resumed_req_ids:
                member.known = member.prompt + cached.num_output_tokens[place]
            member.seen = cached.num_computed_tokens[place] + scheduled[request]

    def clear(self) -> None:
        """Forget all requests, whatever state they are in."""
        self.members.clear()
        self._groups.clear()
        self._slots.clear()
        self.version += 1

    def _read(self, new: Any) -> Arrival | None:
        """Return what a request asks for; None: it is sampled plainly."""
        sampling = new.sampling_params
        if sampling is None or sampling.temperature < LEAST_TEMPERATURE:
            return None
        if new.req_id.startswith(WARM_UP):
            return None
        try:
            settings = RequestSettings.parse(sampling.extra_args, self._defaults)
        except UsageError as error:  # only where admission was bypassed: an engine must not die
            logger.warning("esamp: request %s is sampled plainly: %s", new.req_id, error)
            return None
        if settings.beta == 0:
            return None
        return Arrival(settings=settings, key=group_key(new.req_id, settings, new.lora_request))

    def _enter(self, new: Any, who: Arrival | None) -> None:
        known = len(new.prefill_token_ids) if new.prefill_token_ids else new.prompt_len
        member = self.members.get(new.req_id)
        if member is not None:  # back from preemption, or the next part of a streaming request
            left = None if who and who.key == member.group.key else self._leave(new.req_id)
            if left:
                self._close(left)
        if who is None:
            return
        group = self._groups.get(who.key)
        if group is None:
            group = self._groups[who.key] = Group(key=who.key, slot=self._open())
            if group.slot is not None:
                self._slots.append(group)
        group.members += new.req_id not in self.members
        sampling = new.sampling_params
        self.members[new.req_id] = Member(
            beta=who.settings.beta,
            reference=who.settings.truncation == "reference" and needs_reference(sampling),
            sampling=sampling,
            group=group,
            prompt=new.prompt_len,
            known=known,
        )
        self.version += 1

    def _open(self) -> int | None:
        slot = len(self._slots)
        if slot == self._capacity:
            if not self._told:
                logger.warning(
                    "esamp: all %d groups are open; more are sampled plainly and counted in "
                    "esamp_rows_fallback_total; raise max_groups",
                    self._capacity,
                )
                self._told = True
            return None
        self._bank.reset(upload([slot], torch.long, self._device))
        return slot

    def _leave(self, request: str) -> Group | None:
        """Take a request out; return its group if it was the last one there."""
        member = self.members.pop(request, None)
        if member is None:
            return None
        self.version += 1
        member.group.members -= 1
        return None if member.group.members else member.group

    def _close(self, group: Group) -> None:
        del self._groups[group.key]
        if group.slot is None:
            return
        last = self._slots.pop()
        if last is not group:
            assert last.slot is not None, "a group in a slot knows it"
            self._bank.move(last.slot, group.slot)
            last.slot = group.slot
            self._slots[group.slot] = last


def group_key(request: str, settings: RequestSettings, lora: Any) -> Hashable:
    """Return what the members of a group have in common; adapters change what states mean."""
    adapter = None if lora is None else lora.lora_int_id
    if settings.group is not None:
        return "name", settings.group, adapter
    if settings.scope == "shared":
        return "shared", adapter
    sibling = SIBLING.fullmatch(request) if settings.scope == "prompt" else None
    return "prompt", sibling[1] if sibling else request, adapter


def needs_reference(sampling: Any) -> bool:
    """Whether these sampling parameters do something that does not commute with fusion.

    Truncation, and the repetition penalty, which multiplies. What adds (frequency and presence
    penalties, biases, grammars) gives the same before and after.
    """
    return bool(
        sampling.top_k > 0
        or sampling.top_p < 1
        or sampling.min_p > 0
        or sampling.repetition_penalty != 1
    )

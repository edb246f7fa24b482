"""What vLLM's scheduler says before each step: its `SchedulerOutput`, with what we read of it."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any


def sampling(temperature: float = 1.0, **fields: Any) -> SimpleNamespace:
    """`SamplingParams` that truncate and penalise nothing unless `fields` say so."""
    neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    return SimpleNamespace(
        **{"temperature": temperature, "extra_args": None} | neutral | fields,
    )


def request(
    name: str,
    *,
    prompt: int = 3,
    lora: int | None = None,
    params: Mapping[str, Any] | None = None,
    **ours: Any,
) -> SimpleNamespace:
    """A request as it comes in; `ours` are its keys for esamp, β 0.5 unless they say else."""
    extra_args = {f"esamp_{key}": value for key, value in ({"beta": 0.5} | ours).items()}
    return SimpleNamespace(
        name=name,
        prompt=prompt,
        sampling=sampling(**{"extra_args": extra_args} | dict(params or {})),
        lora=None if lora is None else SimpleNamespace(lora_int_id=lora),
        known=prompt,
        computed=0,
        told=False,
        resumed=False,
    )


class Scheduler:
    """Requests in flight. A step computes what is known of each, and adds the token it draws."""

    def __init__(self, resends: bool = False) -> None:
        self._resends = resends
        """Model runner V2 is told of a preempted request as if it were new."""
        self._requests: dict[str, SimpleNamespace] = {}

    def preempt(self, name: str) -> None:
        """Throw away what was computed of a request."""
        self._requests[name].computed = 0
        self._requests[name].resumed = True

    def step(
        self,
        *arrivals: SimpleNamespace,
        finished: Sequence[str] = (),
        tokens: Mapping[str, int] | None = None,
    ) -> SimpleNamespace:
        """Return the output that describes the next step.

        Args:
            arrivals: Requests that come in.
            finished: Names of requests that are told to be finished.
            tokens: How many tokens are computed of a request, instead of all; 0: it waits.
        """
        for name in finished:
            self._requests.pop(name, None)
        self._requests |= {arrival.name: arrival for arrival in arrivals}
        output = SimpleNamespace(
            finished_req_ids=finished,
            num_scheduled_tokens={},
            scheduled_new_reqs=[],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[], resumed_req_ids=set(), num_computed_tokens=[], num_output_tokens=[]
            ),
        )
        for name, each in self._requests.items():
            count = (tokens or {}).get(name, each.known - each.computed)
            if count > 0:
                output.num_scheduled_tokens[name] = count
                self._tell(output, each)
                each.computed += count
                each.known = max(each.known, each.computed + 1)
        return output

    def _tell(self, output: SimpleNamespace, each: SimpleNamespace) -> None:
        cached = output.scheduled_cached_reqs
        if not each.told or (each.resumed and self._resends):
            output.scheduled_new_reqs.append(
                SimpleNamespace(
                    req_id=each.name,
                    prompt_len=each.prompt,
                    prefill_token_ids=[7] * each.known if self._resends else None,
                    num_computed_tokens=each.computed,
                    sampling_params=each.sampling,
                    lora_request=each.lora,
                )
            )
        else:
            cached.req_ids.append(each.name)
            cached.num_computed_tokens.append(each.computed)
            cached.num_output_tokens.append(each.known - each.prompt)
            if each.resumed:
                cached.resumed_req_ids.add(each.name)
        each.told, each.resumed = True, False

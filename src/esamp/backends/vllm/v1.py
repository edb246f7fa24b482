"""Adapter for vLLM's model runner V1: the default on CPU.

`execute_model` runs the model and its head; `sample_tokens` draws. Row i of the head belongs to
`input_batch.req_ids[i]`, requests in mid-prefill included, whose draw is thrown away. The sampler
scales by the temperature, applies min-p, and calls `topk_topp_sampler` to truncate and draw.
"""

from typing import Any

from torch import Tensor, nn

from esamp.backends.vllm.pilot import Pilot

TOUCHED = ("execute_model", "sample_tokens", "input_batch.req_ids", "sampler.topk_topp_sampler")
"""What must be there on the runner."""


def attach(runner: Any, pilot: Pilot) -> None:
    """Hook the pilot into a runner whose model is loaded."""
    execute, sample = runner.execute_model, runner.sample_tokens

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        with pilot.clock.step():
            pilot.begin(scheduler_output)
            with pilot.expecting(lambda: runner.input_batch.req_ids):
                return execute(scheduler_output, *args, **kwargs)

    def sample_tokens(*args: Any, **kwargs: Any) -> Any:
        with pilot.clock.step():
            output = sample(*args, **kwargs)
            pilot.end()
            return output

    runner.execute_model, runner.sample_tokens = execute_model, sample_tokens
    runner.sampler.topk_topp_sampler = SurvivorFusion(runner.sampler.topk_topp_sampler, pilot)


class SurvivorFusion(nn.Module):
    """Stands in front of the module that truncates and draws, and fuses between the two."""

    def __init__(self, within: nn.Module, pilot: Pilot) -> None:
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

        super().__init__()
        self._truncate = apply_top_k_top_p
        self.within = within
        self._pilot = pilot

    def forward(
        self,
        logits: Tensor,
        generators: Any,
        k: Tensor | None,
        p: Tensor | None,
    ) -> Any:
        """Truncate, fuse and draw; where no row is fused so, only pass on."""
        if not self._pilot.fuses:
            return self.within(logits, generators, k, p)
        truncated = self._truncate(logits, k, p)
        return self.within(self._pilot.fuse(truncated, scaled=True), generators, None, None)

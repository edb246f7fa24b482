"""The class that vLLM finds under `vllm.logits_processors`: it checks requests at admission.

It derives from the interfaces of both model runners, since either loads it. It changes no logits:
steering is the adapters' work.
"""

import logging
import os
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor as ProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as ProcessorV2

from esamp.backends.vllm.parameters import PREFIX, EngineSettings, RequestSettings
from esamp.explorer import ESamp

logger = logging.getLogger("vllm.esamp")


class ESampParameters(ProcessorV1, ProcessorV2):
    """Refuses wrong values with HTTP 400, and says so where nobody listens to right ones."""

    def __init__(self, vllm_config: Any, *unused: Any, **also_unused: Any) -> None:
        self._inert = EngineSettings.find(vllm_config.additional_config, os.environ) is None

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Check what a request says.

        Raises:
            UsageError: A ValueError, which the server turns into HTTP 400.
        """
        RequestSettings.parse(sampling_params.extra_args, ESamp(beta=0.0))

    def is_argmax_invariant(self) -> bool:
        """No logit is changed (V1)."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Look at new requests (V1)."""
        if batch_update is not None:
            for _, sampling_params, *_ in batch_update.added:
                self._hear(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Look at a new request (V2); no logit is changed."""
        self._hear(sampling_params)
        return False

    def apply(self, logits: Any, *context: Any) -> Any:
        """Return the logits as they are."""
        return logits

    def _hear(self, sampling_params: Any) -> None:
        asks = any(str(name).startswith(PREFIX) for name in sampling_params.extra_args or ())
        if asks and self._inert:
            self._inert = False  # once
            logger.warning(
                "a request asks for esamp, which is inert here: it is sampled plainly; start the "
                "server with --additional-config '{\"esamp\": {}}'"
            )

"""The entry point: vLLM calls `register` in every process; workers are armed if they are asked.

One method is wrapped, `Worker.load_model`. Where nobody asks for esamp it runs the original, and
model, sampler and runner are what they would be without us.
"""

import functools
import logging
import os
from importlib.metadata import version
from typing import Any

from esamp.backends.vllm import metrics, v1, v2
from esamp.backends.vllm.model import steer_model
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.pilot import Pilot
from esamp.backends.vllm.ranks import agree_with_rank_0
from esamp.backends.vllm.roster import READ_OF_CACHED, READ_OF_NEW, READ_OF_STEP
from esamp.errors import EsampError, ModelError, UsageError

logger = logging.getLogger("vllm.esamp")

VERSION = version("esamp")
MARK = "esamp_wraps"


def register() -> None:
    """Wrap `Worker.load_model` and show the metrics; may be called any number of times."""
    from vllm.v1.worker.gpu_worker import Worker

    metrics.register()
    original = Worker.load_model
    if hasattr(original, MARK):
        return

    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        settings = EngineSettings.find(self.vllm_config.additional_config, os.environ)
        if settings is None:
            original(self, *args, **kwargs)
            if self.rank == 0:
                logger.info(
                    "esamp %s is installed and inert; "
                    "--additional-config '{\"esamp\": {}}' or ESAMP_ENABLE=1 arms it",
                    VERSION,
                )
            return
        check_engine(self.vllm_config, settings)
        mark_configuration(self.vllm_config.additional_config, settings)
        original(self, *args, **kwargs)
        self.esamp_pilot = arm(self, settings)

    setattr(load_model, MARK, True)
    Worker.load_model = load_model
    Worker.esamp_stats = esamp_stats
    Worker.esamp_errors = esamp_errors
    Worker.esamp_configure = esamp_configure


def mark_configuration(config: Any, settings: EngineSettings) -> None:
    """Add to an engine's configuration what the environment asked for.

    That must be before the model is built: the compiled graph is cached by the configuration, and
    a model that shows shallow has another graph.
    """
    if isinstance(config, dict):
        config.setdefault("esamp", {"beta": settings.esamp.beta})


def check_engine(vllm_config: Any, settings: EngineSettings) -> None:
    """Refuse engines that cannot be steered.

    Raises:
        UsageError: Something is on that does not go with esamp.
    """
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    model = vllm_config.model_config
    problem = None
    if parallel.pipeline_parallel_size > 1:
        problem = (
            "pipeline parallelism keeps the first layer and the head on different workers: "
            "use tensor parallelism (--tensor-parallel-size)"
        )
    elif getattr(parallel, "enable_batch_sharded_sampling", False):
        problem = (
            "batch-sharded sampling shows each rank a part of a group: "
            "leave out --enable-batch-sharded-sampling"
        )
    elif getattr(parallel, "use_ubatching", False):
        problem = (
            "dual-batch overlap runs the model on two halves of a step at once, whose first layers "
            "esamp could not tell apart: leave out --enable-dbo and --ubatch-size"
        )
    elif model.runner_type != "generate":
        problem = f"the model runs as {model.runner_type!r}, and only generation can be steered"
    elif not settings.esamp.layer < (blocks := model.get_total_num_hidden_layers()):
        problem = (
            f"layer is {settings.esamp.layer}, and the model has {blocks} blocks: "
            f"give 1 to {blocks - 1}"
        )
    elif speculative is not None and not str(speculative.method).startswith("ngram"):
        problem = (
            f"the {speculative.method!r} drafter reads hidden states or weights that esamp changes "
            "or was never tried with: leave out --speculative-config, or use ngram"
        )
    elif speculative is not None and not settings.allow_unproven:
        problem = (
            "ngram speculation beside esamp is built and was never proven on a GPU: "
            'give {"esamp": {"allow_unproven": true}} to try it'
        )
    elif speculative is not None and not vllm_config.use_v2_model_runner:
        problem = "speculation beside esamp needs model runner V2 (VLLM_USE_V2_MODEL_RUNNER=1)"
    if problem is not None:
        raise UsageError(f"esamp cannot steer this engine: {problem}")


def arm(worker: Any, settings: EngineSettings) -> Pilot:
    """Hook esamp into a worker whose model is loaded.

    Raises:
        ModelError: Something that esamp touches is not there.
        UsageError: The distillers do not fit into memory.
    """
    runner = worker.model_runner
    adapter = v2 if hasattr(runner, "req_states") else v1
    model = runner.get_model()
    self_test(runner, model, adapter.TOUCHED)
    config = worker.vllm_config
    hidden = config.model_config.get_hidden_size()
    size = settings.max_groups * settings.esamp.distiller.state_bytes(hidden)
    try:
        pilot = Pilot(settings, hidden, runner.device, agree_with_rank_0(config.parallel_config))
    except (RuntimeError, MemoryError) as error:
        raise UsageError(
            f"{settings.max_groups} groups of the {settings.esamp.distiller.name} distiller need "
            f"{size / 1e9:.1f} GB, which are not there: lower max_groups in the settings of esamp "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    tokens = config.scheduler_config.max_num_batched_tokens
    steer_model(model, pilot, settings.esamp.layer, tokens)
    adapter.attach(runner, pilot)
    if worker.rank == 0:
        metrics.publish(pilot.totals)
        logger.info(
            "esamp %s is armed on model runner %s: %s (%.2f GB of state)",
            VERSION,
            "V2" if adapter is v2 else "V1",
            settings.describe(),
            size / 1e9,
        )
    return pilot


def self_test(runner: Any, model: Any, touched: tuple[str, ...]) -> None:
    """Look for everything that the adapter touches.

    Raises:
        ModelError: Something is missing, in one sentence that names it.
    """
    from vllm import __version__ as vllm_version
    from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

    def has(thing: Any, path: str) -> bool:
        for name in path.split("."):
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True

    missing = [f"{type(runner).__name__}.{path}" for path in touched if not has(runner, path)]
    missing += [] if has(model, "compute_logits") else [f"{type(model).__name__}.compute_logits"]
    for kind, names in (
        (SchedulerOutput, READ_OF_STEP),
        (NewRequestData, READ_OF_NEW),
        (CachedRequestData, READ_OF_CACHED),
    ):
        # Fields without a default are no attributes of the class.
        missing += [
            f"{kind.__name__}.{name}"
            for name in names
            if name not in kind.__dataclass_fields__ and not hasattr(kind, name)
        ]
    if missing:
        raise ModelError(
            f"esamp {VERSION} does not know this vLLM ({vllm_version}): "
            f"{', '.join(missing)} is missing; use vLLM 0.31 to 0.33, or a newer esamp"
        )


def esamp_stats(self: Any) -> dict[str, Any]:
    """Return this worker's totals: `llm.collective_rpc("esamp_stats")`."""
    pilot = getattr(self, "esamp_pilot", None)
    return {"armed": False} if pilot is None else {"armed": True} | pilot.stats()


def esamp_errors(self: Any, since: int) -> list[float | None]:
    """Return the distiller error of each steered step, from step `since` on."""
    return _armed(self).totals.recent_errors(since)


def esamp_configure(self: Any, settings: dict[str, Any]) -> None:
    """Change this worker's settings between requests, under the names of `additional_config`."""
    pilot = _armed(self)
    layer = pilot.settings.esamp.layer
    pilot.configure(EngineSettings.parse({"layer": layer} | settings))


def _armed(worker: Any) -> Pilot:
    pilot = getattr(worker, "esamp_pilot", None)
    if not isinstance(pilot, Pilot):
        raise EsampError("esamp is inert here: start the engine with additional_config esamp")
    return pilot

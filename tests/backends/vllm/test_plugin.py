"""Engines that cannot be steered are refused at start, in one sentence."""

from types import SimpleNamespace

import pytest

from esamp import ESamp, UsageError
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.plugin import check_engine, mark_configuration


def engine(parallel=None, speculative=None, runner_type="generate", v2=True):
    return SimpleNamespace(
        parallel_config=SimpleNamespace(
            **{"pipeline_parallel_size": 1, "enable_batch_sharded_sampling": False}
            | (parallel or {})
        ),
        speculative_config=speculative and SimpleNamespace(method=speculative),
        model_config=SimpleNamespace(
            runner_type=runner_type, get_total_num_hidden_layers=lambda: 3
        ),
        use_v2_model_runner=v2,
    )


UNPROVEN = EngineSettings(allow_unproven=True)


@pytest.mark.parametrize(
    ("refused", "settings", "message"),
    [
        (engine({"pipeline_parallel_size": 2}), UNPROVEN, "use tensor parallelism"),
        (
            engine({"enable_batch_sharded_sampling": True}),
            UNPROVEN,
            "leave out --enable-batch-sharded-sampling",
        ),
        (engine({"use_ubatching": True}), UNPROVEN, "leave out --enable-dbo"),
        (engine(), EngineSettings(esamp=ESamp(layer=3)), "layer is 3, and the model has 3 blocks"),
        (engine(runner_type="pooling"), UNPROVEN, "runs as 'pooling', and only generation"),
        (engine(speculative="eagle3"), UNPROVEN, "the 'eagle3' drafter reads hidden states"),
        (engine(speculative="mtp"), UNPROVEN, "the 'mtp' drafter reads"),
        (engine(speculative="medusa"), UNPROVEN, "the 'medusa' drafter reads"),
        (engine(speculative="ngram"), EngineSettings(), '{"esamp": {"allow_unproven": true}}'),
        (engine(speculative="ngram", v2=False), UNPROVEN, "needs model runner V2"),
    ],
)
def test_what_cannot_be_steered_is_refused(refused, settings, message):
    with pytest.raises(UsageError, match="esamp cannot steer this engine: ") as caught:
        check_engine(refused, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_rest_is_not():
    check_engine(engine(), EngineSettings())
    check_engine(engine(), EngineSettings(esamp=ESamp(layer=2)))
    check_engine(engine(v2=False), EngineSettings())
    check_engine(engine(speculative="ngram"), UNPROVEN)


def test_what_the_environment_asked_for_joins_the_configuration():
    settings = EngineSettings.find({}, {"ESAMP_BETA": "0.5"})
    config, given = {"other": 1}, {"esamp": {"beta": 2.0}}
    mark_configuration(config, settings)
    mark_configuration(given, settings)
    assert config == {"other": 1, "esamp": {"beta": 0.5}}
    assert given == {"esamp": {"beta": 2.0}}

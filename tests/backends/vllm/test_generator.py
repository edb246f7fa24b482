"""The generator on a real engine: what evaluation sees of vLLM."""

import math

import pytest

from .engines import needs_vllm

pytestmark = [needs_vllm, pytest.mark.engine, pytest.mark.model]


@pytest.fixture(scope="module")
def results(hosts):
    """Several requests on one engine, all decoded in its process."""
    return hosts().ask(do="script", function="tests.backends.vllm.probes:generate_all")


def test_the_engines_settings_are_the_generators(monkeypatch):
    from esamp.backends.vllm import generator

    monkeypatch.setattr(generator, "start_engine", lambda name, dtype, **engine: engine)
    loaded = generator.VllmGenerator.load(
        "m", max_groups=7, esamp={"layer": 2, "distiller": "mean"}
    )
    esamp = loaded.settings.esamp
    assert (esamp.layer, esamp.distiller.name, loaded.settings.max_groups) == (2, "mean", 7)
    assert loaded.llm["additional_config"]["esamp"]["layer"] == 2


def test_it_is_a_generator(results):
    assert results["is_generator"]


def test_samples_come_back_with_what_was_asked_for(results):
    run = results["esamp"]
    assert [len(group) for group in run["tokens"]] == [3, 3]
    lengths = [len(sample) for group in run["tokens"] for sample in group]
    assert max(lengths) == 12
    assert set(run["reasons"]) <= {"length", "stop"}
    assert run["stats"]["tokens"] == len(run["logprobs"]) == sum(lengths)
    errors = run["stats"]["distiller_error"]
    assert len(errors) == 11
    assert all(0 < error < 10 for error in errors)


def test_prompts_that_do_not_fit_into_a_step_wait_for_the_next(results):
    """Split over two steps they would kill a seeded run on a CPU."""
    assert [len(group) for group in results["long"]["tokens"]] == [3, 3]


def test_samples_of_a_prompt_read_it_once_but_for_what_fills_no_block(results):
    assert results["read before"] == [0, 96]  # tokens of some 113, in one step


def test_cooled_plain_sampling_is_hot_at_first_and_then_cool(results):
    hot, cooled, cool = (
        results[each]["logprobs"] for each in ("vanilla", "cooled plain", "at the cool temperature")
    )
    firsts = [group[0][0] for group in results["vanilla"]["tokens"]]
    assert [group[0][0] for group in results["cooled plain"]["tokens"]] == firsts
    assert cooled[0] == pytest.approx(hot[0], abs=1e-4)
    mean = [sum(each) / len(each) for each in (hot, cooled, cool)]
    assert mean[0] < mean[1] - 0.3
    assert mean[1] == pytest.approx(mean[2], abs=0.4)
    assert results["cooled to 1"]["tokens"] == results["vanilla"]["tokens"]


def test_log_probabilities_are_those_of_what_was_drawn_from(results):
    # One token survives top-k 1, steered or not; two where their logits are equal.
    logprobs = results["top_k_1"]["logprobs"]
    assert logprobs.count(0.0) > 0.9 * len(logprobs)
    assert results["esamp"]["logprobs"].count(0.0) == 0


def test_a_prompt_that_comes_twice_has_twice_as_many_samples_in_one_group(results):
    for how in ("twice", "fire within twice"):
        run = results[how]  # in two groups, since the engine has no third: `full` is refused
        assert [len(group) for group in run["tokens"]] == [3, 3, 3]
        assert len({tuple(sample) for group in run["tokens"] for sample in group}) == 9
        assert run["stats"]["distiller_error"]
    for how in ("fire twice", "greedy twice"):
        assert [len(group) for group in results[how]["tokens"]] == [3, 3]
    fire = [tuple(sample) for group in results["fire twice"]["tokens"] for sample in group]
    assert len(set(fire)) == 6
    assert results["fire"]["tokens"][1] == results["fire twice"]["tokens"][0]
    greedy = [sample for group in results["greedy twice"]["tokens"] for sample in group]
    assert greedy == [greedy[0]] * 6


def test_a_seed_repeats_and_methods_differ(results):
    assert results["esamp"]["tokens"] == results["again"]["tokens"]
    assert results["beta 0"]["tokens"] == results["vanilla"]["tokens"]
    assert results["esamp"]["tokens"] != results["vanilla"]["tokens"]
    assert results["mean"]["tokens"] != results["esamp"]["tokens"]
    assert results["orthogonal"]["tokens"] != results["esamp"]["tokens"]
    assert results["early"]["tokens"] != results["esamp"]["tokens"]
    assert results["cooled"]["tokens"] != results["orthogonal"]["tokens"]
    assert results["greedy"]["tokens"][0][0] == results["greedy"]["tokens"][0][1]


def test_controls_take_esamps_place_and_leave_it(results):
    noise, sharp = results["noise"], results["sharpening"]
    plain, esamp = results["vanilla"], results["esamp"]
    assert noise["tokens"] not in (plain["tokens"], esamp["tokens"])
    assert sharp["tokens"] not in (plain["tokens"], esamp["tokens"], noise["tokens"])
    # The first token follows the prompt and is plain, whatever the method.
    for run in (noise, sharp):
        assert [[sample[0] for sample in group] for group in run["tokens"]] == [
            [sample[0] for sample in group] for group in plain["tokens"]
        ]
    assert all(error == pytest.approx(1.0, abs=1e-3) for error in sharp["stats"]["distiller_error"])
    assert results["esamp after controls"]["tokens"] == esamp["tokens"]


def test_fire_heats_first_tokens_and_only_these(results):
    fire, within = results["fire"], results["fire within"]
    assert results["fire again"]["tokens"] == fire["tokens"]
    firsts = [[sample[0] for sample in group] for group in fire["tokens"]]
    assert firsts != [[sample[0] for sample in group] for group in results["vanilla"]["tokens"]]
    assert [[sample[0] for sample in group] for group in within["tokens"]] == firsts
    assert within["tokens"] != fire["tokens"]
    assert within["stats"]["distiller_error"], "the rest is steered"
    # At temperature 30 the sixteen that are left are nearly equally likely.
    logprobs = iter(fire["logprobs"])
    for group in fire["tokens"]:
        for sample in group:
            mine = [next(logprobs) for _ in sample]
            assert mine[0] == pytest.approx(-math.log(16), abs=0.7)
            assert len(sample) <= 12
    assert fire["stats"]["tokens"] == len(fire["logprobs"])
    assert results["fire of one token"]["tokens"] == [[[t] for t in group] for group in firsts]
    assert results["greedy fire"]["tokens"] == results["greedy"]["tokens"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("override", "method 'override' does not run on vLLM: use --backend transformers"),
        ("fire", "method 'override' does not run on vLLM"),
        ("cooling", "method 'override' does not run on vLLM"),
        ("layer", "layer is 2, and this engine shows layer 1"),
        ("diagnostics", "use --backend transformers"),
        ("long", "shorten the prompt or lower --max-new-tokens"),
        ("full", "drawn plainly, since all groups were open: raise max_groups"),
    ],
)
def test_what_cannot_be_served_is_refused(results, what, message):
    assert message in results["refused"][what]

"""Model families, compilation, more than one rank, and preemption."""

import pytest

from .engines import add, needs_vllm
from .models import save

pytestmark = [needs_vllm, pytest.mark.engine]

SHORT, OTHER = range(5, 9), range(100, 110)
NOTHING = 1e-30
REQUESTS = [add("a", SHORT), add("b", OTHER, top_p=0.8, step=2), add("c", SHORT, step=3)]


def steered(beta):
    return [
        event | {"params": event["params"] | {"extra_args": {"esamp_beta": beta}}}
        for event in REQUESTS
    ]


def assert_steers(plain, armed):
    """Nothing changes at a strength of nothing, something at a strength of one, and it learns."""
    expected = plain.tokens(*REQUESTS)
    assert armed.tokens(*steered(NOTHING)) == expected
    assert armed.tokens(*steered(1.0)) != expected
    stats = armed.stats()
    assert stats["rows_steered"] == 2 * 3 * 4 * 15
    assert (stats["rows_fallback"], stats["faults"]) == (0, {})
    assert stats["distiller_error"] < 1


@pytest.mark.parametrize("family", ["gemma2", "mixtral"])
def test_models_that_show_no_inner_states_are_tapped(hosts, tmp_path, family):
    host, model = hosts(), save(family, tmp_path)
    assert_steers(host.start("plain", model), host.start("armed", model, esamp={}))


def in_turn(hosts, model, **options):
    """Tokens of a plain engine, then an armed one: idle workers of several processes spin."""
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} | options.pop("environment")
    host = hosts(**environment)
    expected = host.start("plain", model, **options).tokens(*REQUESTS)
    host.close()
    host = hosts(**environment)
    return expected, host.start("armed", model, esamp={}, **options)


@pytest.mark.slow
def test_compiled_in_processes_of_their_own(hosts, tiny):
    expected, armed = in_turn(hosts, tiny, enforce_eager=False, environment={})
    assert armed.tokens(*steered(NOTHING)) == expected
    assert armed.tokens(*steered(1.0)) != expected
    assert armed.stats()["rows_steered"] == 2 * 3 * 4 * 15


@pytest.mark.slow
def test_two_ranks_draw_what_two_plain_ranks_draw(hosts, tiny):
    environment = {"OMP_NUM_THREADS": "1"}
    expected, armed = in_turn(hosts, tiny, tensor_parallel_size=2, environment=environment)
    assert armed.tokens(*steered(NOTHING)) == expected
    assert armed.tokens(*steered(1.0)) != expected
    first, second = armed.rpc("esamp_stats")
    assert first == second
    assert first["rows_steered"] == 2 * 3 * 4 * 15
    assert first["faults"] == {}


def test_preempted_requests_keep_their_group(hosts, tiny):
    host = hosts()
    # Room for some 650 tokens: sixteen rows of 110 do not fit.
    options = {"kv_cache_memory_bytes": 1 << 20, "block_size": 32, "max_model_len": 128}
    plain = host.start("plain", tiny, **options)
    armed = host.start("armed", tiny, esamp={}, **options)
    events = [
        add("a", SHORT, n=8, max_tokens=100),
        add("b", OTHER, n=8, max_tokens=100, top_p=0.9),
    ]
    expected = plain.tokens(*events)
    armed.call("preemptions")
    quiet = [e | {"params": e["params"] | {"extra_args": {"esamp_beta": NOTHING}}} for e in events]
    assert armed.tokens(*quiet) == expected
    assert armed.call("preemptions") > 0
    stats = armed.stats()
    # Each token but the first of a sample, once, whether its request was preempted or not.
    assert stats["rows_steered"] == 2 * 8 * 99
    assert (stats["rows_fallback"], stats["faults"], stats["groups_open"]) == (0, {}, 0)


def test_samples_that_wait_for_room_learn_from_those_before_them(hosts, tiny):
    armed = hosts().start("narrow", tiny, esamp={}, max_num_seqs=2)
    armed.play(add("a", SHORT, beta=NOTHING))  # two of four at a time, which end together
    errors = armed.rpc("esamp_errors", 0)[0]
    assert len(errors) == 2 * 15
    new = pytest.approx(1.0, abs=1e-6)  # a distiller that knows nothing predicts nothing
    assert [step for step, error in enumerate(errors) if error == new] == [0]


def test_the_environment_arms_and_the_layer_is_the_one_asked_for(hosts, tiny):
    host = hosts(ESAMP_BETA="1.0")
    first = host.start("first", tiny)
    second = host.start("second", tiny, esamp={"layer": 2})
    steered_first = first.tokens(*REQUESTS)
    plain = first.tokens(*steered(0.0))
    assert steered_first != plain
    assert second.tokens(*steered(0.0)) == plain
    assert second.tokens(*REQUESTS) not in (plain, steered_first)
    assert first.stats()["rows_steered"] == second.stats()["rows_steered"] == 3 * 4 * 15

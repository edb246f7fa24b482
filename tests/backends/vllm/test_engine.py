"""What must hold in a real engine, on both model runners."""

import dataclasses
import functools

import pytest

from .engines import abort, add, needs_vllm

pytestmark = [needs_vllm, pytest.mark.engine]

SHORT, LONG, OTHER = range(5, 9), range(20, 80), range(100, 110)
NOTHING = 1e-30
"""A strength that runs the whole machinery and moves no bit."""

INTERPRETED = {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
CHUNKED = {"max_num_batched_tokens": 32, "enable_chunked_prefill": True}


@dataclasses.dataclass
class Engines:
    """The same engine twice."""

    plain: object
    armed: object
    kind: str


@pytest.fixture(scope="module")
def start(hosts, tiny):
    """Starts a plain and an armed engine in one process, once a kind."""

    @functools.cache
    def of_kind(kind):
        host = hosts(**(INTERPRETED if kind.startswith("v2") else {}))
        # On V2 long prompts come in chunks. V1 on a CPU stumbles over a seeded request in chunks,
        # and has a test of its own.
        options = CHUNKED | {"asynchronous": kind.endswith("async")} if kind != "v1" else {}
        return Engines(
            host.start("plain", tiny, **options),
            host.start("armed", tiny, esamp={"max_groups": 16}, **options),
            kind,
        )

    return of_kind


@pytest.fixture(params=["v1", "v2"])
def engines(request, start):
    return start(request.param)


@pytest.fixture(params=["v1", "v2", "v2-async"])
def all_engines(request, start):
    return start(request.param)


def with_beta(events, beta):
    """The same requests, steered."""
    return [
        event | {"params": event["params"] | {"extra_args": {"esamp_beta": beta}}}
        for event in events
    ]


MIXED = [
    add("plain", SHORT, max_tokens=20),
    add("chunked", LONG, step=2),
    add("nucleus", SHORT, step=1, top_p=0.8),
    add("top-k", OTHER, step=4, top_k=5, temperature=0.7),
    add("min-p", OTHER, step=4, min_p=0.1, n=1),
    add("all three", SHORT, step=5, top_p=0.9, top_k=20, min_p=0.02, temperature=1.3),
    add("penalties", SHORT, step=6, repetition_penalty=1.3, frequency_penalty=0.4, n=2),
    add("biased", SHORT, step=6, logit_bias={"7": 2.0}, min_tokens=3, n=2),
    add("greedy", LONG, step=7, temperature=0.0, n=1),
    add("unsteered nucleus", LONG, step=7, top_p=0.5, n=2),
    add("logprobs", SHORT, step=8, logprobs=2, prompt_logprobs=1, n=2),
]


def test_a_strength_of_nothing_is_plain_decoding_token_for_token(all_engines):
    expected = all_engines.plain.play(*MIXED)
    assert all_engines.armed.play(*MIXED) == expected
    before = all_engines.armed.stats()["rows_steered"]
    steered = all_engines.armed.play(*with_beta(MIXED, NOTHING))
    assert {name: each["tokens"] for name, each in steered.items()} == {
        name: each["tokens"] for name, each in expected.items()
    }
    # All tokens but the first of each sample, and but those of the greedy request.
    tokens = sum(
        len(sample) - 1
        for name, each in steered.items()
        if name != "greedy"
        for sample in each["tokens"]
    )
    stats = all_engines.armed.stats()
    assert stats["rows_steered"] - before + stats["rows_fallback"] == tokens
    assert not stats["faults"]


def test_chunked_prefill_on_v1(hosts, tiny):
    host = hosts()
    unseeded = [event | {"params": event["params"] | {"seed": None}} for event in MIXED]
    expected = host.start("plain", tiny, **CHUNKED).tokens(*unseeded)
    armed = host.start("armed", tiny, esamp={}, **CHUNKED)
    assert armed.tokens(*with_beta(unseeded, NOTHING)) == expected
    stats = armed.stats()
    assert stats["rows_steered"] > 100
    assert (stats["rows_fallback"], stats["faults"]) == (0, {})


def test_greedy_and_opted_out_rows_beside_steered_ones_are_plain_bit_for_bit(all_engines):
    untouched = [add("greedy", SHORT, temperature=0.0, n=1), add("out", LONG, logprobs=0, n=2)]
    nucleus = add("nucleus out", OTHER, top_p=0.7, n=2)
    beside = [add("steered", SHORT, top_p=0.9), add("strong", OTHER)]
    expected = all_engines.plain.play(*untouched, nucleus, *beside)
    opted_out = with_beta([untouched[1], nucleus], 0.0)
    mixed = all_engines.armed.play(untouched[0], *opted_out, *with_beta(beside, 0.25))
    for name in ("greedy", "out", "nucleus out"):
        assert mixed[name] == expected[name]
    assert mixed["strong"]["tokens"] != expected["strong"]["tokens"]


@pytest.mark.parametrize("truncation", ["reference", "fused"])
def test_a_strength_changes_what_is_sampled(engines, truncation):
    request = add("a", SHORT, top_p=0.9)
    plain = engines.armed.tokens(request)
    steered = engines.armed.tokens(add("a", SHORT, top_p=0.9, beta=1.0, truncation=truncation))
    assert steered != plain
    # The first token follows the prompt, and is not steered.
    assert [sample[0] for sample in steered["a"]] == [sample[0] for sample in plain["a"]]


def test_both_readings_of_truncation_are_the_dense_formula(tiny, engines):
    """What the engine says a token was drawn with, against two projections of the same states."""
    host = engines.armed.host
    exact = host.start("exact", tiny, esamp={}, logprobs_mode="processed_logprobs")
    cuts = {
        "nucleus": {"top_p": 0.8},
        "top": {"top_k": 12, "temperature": 0.7},
        "floor": {"min_p": 0.05, "temperature": 1.4},
        "all": {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
        "none": {},
    }
    seen = {"reference": 0, "fused": 0}
    for reading in seen:
        events = [
            add(name, SHORT, n=1, beta=0.5, truncation=reading, logprobs=0, seed=seed, **cut)
            for seed, (name, cut) in enumerate(cuts.items())
        ]
        other = next(each for each in seen if each != reading)
        for each in exact.call("drawn_and_dense", events=events).values():
            assert each["reported"] == pytest.approx(each[reading], abs=2e-3)
            seen[reading] += each["reported"] != pytest.approx(each[other], abs=2e-3)
    assert all(seen.values()), "the two readings differ where something is cut"


def test_the_states_read_are_those_of_the_core_explorer(all_engines):
    events = [
        add("a", SHORT, beta=0.5),
        add("b", OTHER, beta=1.0, top_p=0.9, step=2, max_tokens=24),
        add("c", LONG, beta=0.25, truncation="fused", step=3, n=2),
        add("d", SHORT, beta=2.0, group="shared by two", step=4, n=1),
        add("e", OTHER, beta=2.0, group="shared by two", step=6, n=1),
        add("f", OTHER, step=5),
    ]
    result = all_engines.armed.call("steered_as_core", events=events)
    assert result["groups"] == 4
    assert result["steered"] > 100
    assert result["worst"] < 1e-3


def test_a_groups_samples_do_not_depend_on_what_else_runs(engines):
    alone = engines.armed.tokens(add("a", SHORT, beta=1.0))
    others = [add("b", OTHER, beta=2.0), add("c", LONG, step=3), add("d", SHORT, step=2, beta=0.5)]
    assert (
        engines.armed.tokens(others[0], add("a", SHORT, beta=1.0), *others[1:])["a"] == alone["a"]
    )


def test_a_shared_group_is_not_one_group_each(engines):
    def requests(**how):
        return [add(f"r{seed}", SHORT, beta=1.5, n=1, seed=seed, **how) for seed in (10, 20, 30)]

    each, shared, scoped = requests(), requests(group="all"), requests(scope="shared")
    apart = engines.armed.tokens(*each)
    together = engines.armed.tokens(*shared)
    assert together != apart
    assert engines.armed.tokens(*scoped) == together


def test_aborted_requests_leave_nothing_behind(engines):
    kept = [add("kept", SHORT, beta=1.0), add("later", OTHER, beta=1.0, step=6)]
    expected = engines.armed.tokens(*kept)
    doomed = [
        add("at once", LONG, beta=1.0), abort("at once", 0),
        add("in prefill", LONG, beta=1.0, step=1), abort("in prefill", 2),
        add("in decode", OTHER, beta=1.0, step=1), abort("in decode", 7),
    ]  # fmt: skip
    played = engines.armed.tokens(*kept, *doomed)
    assert {name: played[name] for name in expected} == expected
    stats = engines.armed.stats()
    assert (stats["groups_open"], stats["requests_open"]) == (0, 0)


def test_more_groups_than_there_is_room_for_are_sampled_plainly_and_counted(engines):
    prompts = [range(start, start + 6) for start in range(10, 70, 10)]
    events = [add(f"r{number}", prompt, n=2) for number, prompt in enumerate(prompts)]
    plain = engines.plain.tokens(*events)
    engines.armed.rpc("esamp_configure", {"max_groups": 4})
    before = engines.armed.stats()["rows_fallback"]
    steered = engines.armed.tokens(*with_beta(events, 2.0))
    engines.armed.rpc("esamp_configure", {"max_groups": 16})
    assert [steered[name] == plain[name] for name in plain] == [False] * 4 + [True] * 2
    assert engines.armed.stats()["rows_fallback"] - before == 2 * 2 * 15
    assert engines.armed.stats()["groups_open"] == 0


@pytest.mark.parametrize("what", ["steer", "learn", "roster", "keep", "fuse"])
def test_a_fault_in_a_hook_is_counted_and_reaches_no_other_request(engines, what):
    others = [add("out", LONG, n=2), add("greedy", OTHER, temperature=0.0, n=1)]
    events = [add("a", SHORT, top_p=0.9), *others]
    expected = engines.plain.tokens(*events)
    events[0] = add("a", SHORT, top_p=0.9, beta=NOTHING)
    result = engines.armed.call("break_things", events=events, what=what)
    assert any(f"broken on purpose: {what}" in fault for fault in result["faults"])
    # A strength of nothing: with or without a fault, every token is the plain one.
    assert result["tokens"] == expected
    assert (result["fallback"] > 0) == (what != "learn")
    # And it goes on: the next call is steered as if nothing had been.
    assert engines.armed.tokens(add("a", SHORT, beta=2.0)) != engines.armed.tokens(add("a", SHORT))


def test_a_row_that_is_not_finite_is_sampled_plainly_and_counted(engines):
    request = add("sick", OTHER, n=1)
    plain = engines.plain.tokens(request, add("well", SHORT))
    well = engines.armed.tokens(add("well", SHORT, beta=1.0))
    events = [add("sick", OTHER, n=1, beta=1.0), add("well", SHORT, beta=1.0)]
    result = engines.armed.call("poison", events=events, request="sick")
    assert result["tokens"]["sick"] == plain["sick"]
    assert result["tokens"]["well"] == well["well"]
    assert result["nonfinite"] == 15
    assert result["steered"] == 4 * 15


def test_settings_change_between_requests(engines):
    request = add("a", SHORT, beta=1.0)
    recursive = engines.armed.tokens(request)
    engines.armed.rpc("esamp_configure", {"distiller": "mean", "max_groups": 16})
    mean = engines.armed.tokens(request)
    default = engines.armed.rpc("esamp_configure", {"beta": 1.0, "max_groups": 16})
    assert engines.armed.tokens(add("a", SHORT)) == recursive
    engines.armed.rpc("esamp_configure", {"max_groups": 16})
    assert default == [None]
    assert mean != recursive
    assert engines.armed.tokens(request) == recursive


def test_a_request_that_asks_an_inert_engine_is_plain_and_the_log_says_so(engines):
    request = add("a", SHORT)
    expected = engines.plain.tokens(request)
    assert engines.plain.tokens(add("a", SHORT, beta=2.0)) == expected
    told = engines.plain.host.log().count("a request asks for esamp, which is inert here")
    assert told == 1


def test_the_self_test_finds_what_is_there_and_names_what_is_not(engines):
    for engine in (engines.plain, engines.armed):
        assert engine.call("missing", path="sampler") is None
        message = engine.call("missing", path="sampler.no_such_thing")
        assert "ModelRunner.sampler.no_such_thing is missing; use vLLM 0.31" in message


def test_an_inert_engine_is_the_original(engines):
    assert engines.plain.call("originals") == {
        "ours": [],
        "replaced": [],
        "class": "Qwen2ForCausalLM",
        "aux": [],
    }
    assert engines.plain.stats() == {"armed": False}
    assert "installed and inert" in engines.plain.host.log()
    assert "is armed on model runner " + engines.kind[:2].upper() in engines.plain.host.log()

import json

import pytest

from esamp.explorer import ESamp
from esamp.recursive import RecursiveBank


@pytest.mark.parametrize(("baseline", "ratio"), [("vanilla", 0.5), ("stock", 2.0)])
def test_ratio_is_the_baselines_time_over_esamps_and_share_is_measured_apart(
    monkeypatch, baseline, ratio
):
    import esamp.cli.bench as bench

    now = [0.0]
    cost = {"NoneType": 4.0, "Vanilla": 1.0, "ESamp": 2.0}

    def run(method):
        now[0] += cost[type(method).__name__]

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    shares = []
    arms = bench.Arms(run=run, share=lambda method: 0.02, baseline=baseline, hidden=576)
    result = bench.compare(arms, ESamp(), rounds=3, tokens=100, progress=shares.append)
    assert result["ratio"] == result["ratio_low"] == result["ratio_high"] == ratio
    assert result["stock_tokens_per_second"] == 25
    assert result["overhead_share"] == 0.02
    assert result["state_bytes_per_group"] == 4 * (272 * 576 + 272 * 272)
    assert shares == sorted(shares)


@pytest.mark.model
def test_the_contract_of_the_json(run, checkpoint, monkeypatch):
    steps, learn = [], RecursiveBank.learn
    monkeypatch.setattr(RecursiveBank, "learn", lambda *of: (steps.append(1), learn(*of)))
    code, out, err = run(
        "bench", "decode", "--prompts", "2", "--samples", "2", "--max-new-tokens", "4",
        "--rounds", "1", "--features", "16", "--learn-tokens", "2", "--model", checkpoint, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert set(result) == {
        "stock_tokens_per_second", "vanilla_tokens_per_second", "esamp_tokens_per_second",
        "ratio", "ratio_low", "ratio_high", "overhead_share", "state_bytes_per_group", "machine",
        "backend", "baseline", "dtype",
    }  # fmt: skip
    # To warm up, in the round and for the share: of four steps the last has nothing to learn.
    assert len(steps) == 3 * 3
    assert 0 < result["overhead_share"] < 1
    assert result["state_bytes_per_group"] == 4 * (32 * 576 + 32 * 32)  # padded to 16

import json

import pytest

from esamp.cli.bench import compare
from esamp.explorer import ESamp


def test_ratio_is_vanilla_time_over_esamp_time_and_share_is_measured_apart(monkeypatch):
    import esamp.cli.bench as bench

    now = [0.0]
    cost = {"NoneType": 4.0, "Vanilla": 1.0, "ESamp": 2.0}

    def run(method):
        if type(method).__name__ == "Timed":
            method.own_seconds, method.step_seconds = 1.0, 50.0
        else:
            now[0] += cost[type(method).__name__]

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    shares = []
    result = compare((run, 576), ESamp(), rounds=3, tokens=100, progress=shares.append)
    assert result["ratio"] == result["ratio_low"] == result["ratio_high"] == 0.5
    assert result["stock_tokens_per_second"] == 25
    assert result["overhead_share"] == 0.02
    assert result["state_bytes_per_group"] == 4 * (257 * 576 + 257 * 257)
    assert shares == sorted(shares)


@pytest.mark.model
def test_the_contract_of_the_json(run, checkpoint):
    code, out, err = run(
        "bench", "decode", "--prompts", "2", "--samples", "2", "--max-new-tokens", "4",
        "--rounds", "1", "--model", checkpoint, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert set(result) == {
        "stock_tokens_per_second", "vanilla_tokens_per_second", "esamp_tokens_per_second",
        "ratio", "ratio_low", "ratio_high", "overhead_share", "state_bytes_per_group", "machine",
    }  # fmt: skip
    assert 0 < result["overhead_share"] < 1

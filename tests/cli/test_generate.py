import json

import pytest

pytestmark = pytest.mark.model

STORY = "Write a short story about a lighthouse."


def sample(run, checkpoint, *options, tokens=12, samples=3):
    code, out, err = run(
        "generate", STORY, "--samples", str(samples), "--max-new-tokens", str(tokens),
        "--model", checkpoint, "--json", *options,
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 1, "stdout holds one JSON object and nothing else"
    return json.loads(lines[0])


def test_the_contract_of_the_json(run, checkpoint):
    result = sample(run, checkpoint)
    assert set(result) == {"prompt", "method", "samples", "stats"}
    assert result["prompt"] == STORY
    assert result["method"]["name"] == "esamp"
    assert result["method"]["beta"] == 0.25
    assert result["method"]["distiller"]["name"] == "recursive"
    assert result["method"]["distiller"]["features"] == 256
    for each in result["samples"]:
        assert set(each) == {
            "text", "token_ids", "finish_reason", "logprobs", "reference_logprobs", "novelty",
        }  # fmt: skip
        assert len(each["token_ids"]) == len(each["logprobs"]) == len(each["novelty"])
        assert each["reference_logprobs"] is None
        assert each["novelty"][0] is None
        assert all(value > 0 for value in each["novelty"][1:])
    stats = result["stats"]
    assert set(stats) == {
        "tokens", "seconds", "tokens_per_second", "distiller_error", "nonfinite_rows", "kl",
        "entropy", "reference_entropy",
    }  # fmt: skip
    assert stats["tokens"] == sum(len(each["token_ids"]) for each in result["samples"])
    assert len(stats["distiller_error"]) == 11
    assert stats["nonfinite_rows"] == 0
    assert stats["kl"] is None


def test_beta_zero_gives_the_tokens_of_vanilla(run, checkpoint):
    with pytest.warns(match="ESamp changes nothing here"):
        off = sample(run, checkpoint, "--beta", "0", "--seed", "5")
    plain = sample(run, checkpoint, "--method", "vanilla", "--seed", "5")
    assert [each["token_ids"] for each in off["samples"]] == [
        each["token_ids"] for each in plain["samples"]
    ]
    assert plain["samples"][0]["novelty"] is None


def test_another_seed_gives_other_samples(run, checkpoint):
    one, same, two = (sample(run, checkpoint, "--seed", seed) for seed in "112")
    assert one["samples"] == same["samples"]
    assert one["samples"] != two["samples"]


def test_diagnostics_are_given_on_request(run, checkpoint):
    result = sample(run, checkpoint, "--diagnostics", "--top-k", "20")
    assert result["stats"]["kl"] > 0
    assert 0 < result["stats"]["entropy"] < result["stats"]["reference_entropy"]
    first = result["samples"][0]
    assert first["reference_logprobs"][0] == pytest.approx(first["logprobs"][0], abs=1e-4)


def test_compare_adds_vanilla_and_both_diversities(run, checkpoint):
    pytest.importorskip("sentence_transformers")
    result = sample(run, checkpoint, "--compare")
    assert len(result["vanilla"]["samples"]) == 3
    for name in ("esamp", "vanilla"):
        assert 1 <= result["diversity"][name]["vendi"] <= 3
        assert -1 <= result["diversity"][name]["similarity"] <= 1


def test_the_view_shows_every_sample(run, checkpoint):
    code, out, _ = run(
        "generate", STORY, "--samples", "3", "--max-new-tokens", "8", "--model", checkpoint
    )
    assert code == 0
    assert all(f" {number} " in out for number in (1, 2, 3))
    assert "shaded by novelty" in out


def test_the_comparison_says_what_it_does_not_show(run, checkpoint):
    pytest.importorskip("sentence_transformers")
    code, out, err = run(
        "generate", STORY, "--samples", "2", "--max-new-tokens", "8", "--model", checkpoint,
        "--compare",
    )  # fmt: skip
    assert code == 0
    assert out.count("Vendi score") == 2
    assert "hint: ESamp also sharpens" in " ".join(err.split())


def test_a_prompt_longer_than_the_context_is_refused(run, checkpoint):
    code, _, err = run("generate", "word " * 9000, "--model", checkpoint)
    assert code == 2
    assert "context is 8192" in err


@pytest.mark.slow
def test_learning_may_end(run, checkpoint):
    assert sample(run, checkpoint)["method"]["learn_tokens"] is None
    assert sample(run, checkpoint, "--learn-tokens", "2")["method"]["learn_tokens"] == 2


@pytest.mark.slow
def test_fewer_features_are_another_distiller(run, checkpoint):
    few = sample(run, checkpoint, "--features", "16")
    assert few["method"]["distiller"]["features"] == 16
    assert few["stats"]["distiller_error"] != sample(run, checkpoint)["stats"]["distiller_error"]


def test_the_distiller_learns_a_real_model(run, checkpoint):
    result = sample(run, checkpoint, "--seed", "1", tokens=96, samples=16)
    last = result["stats"]["distiller_error"][-16:]
    assert sum(last) / len(last) <= 0.60

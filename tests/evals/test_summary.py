import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from made_lines import grade_line, measure_line

from esamp.errors import UsageError
from esamp.evals.metrics import pass_at_k
from esamp.evals.summary import ArmSettings, SummarySettings, compare, summarise

ARMS = {
    "vanilla": 1.0,
    "vanilla(temperature=0.7)": 0.7,
    "esamp(beta=0.25)": 1.0,
    "min-p(p=0.1)": 1.0,
}
CURVE = list(ARMS)[:2]


def settings(**changes):
    given = {
        "task": "open-ended",
        "model": "tiny",
        "backend": "scripted",
        "samples": 4,
        "seeds": [0, 1],
        "items": [f"item {number}" for number in range(24)],
        "arms": [ArmSettings(name=name, temperature=value) for name, value in ARMS.items()],
        "embedders": ["E"],
        "scorers": ["own"],
        "verifiable": False,
    }
    return SummarySettings(**{**given, **changes})


# What each arm is made to show: Vendi and log-perplexity.
SHOWN = dict(zip(ARMS, [(3.0, 3.0), (2.0, 2.0), (3.0, 2.5), (3.5, 3.5)], strict=True))


def lines(run, **changes):
    """Measures of a whole run; items differ in the same way for each arm."""
    draws = np.random.default_rng(0).uniform(-0.2, 0.2, len(run.items))
    for arm, (vendi, log_perplexity) in SHOWN.items():
        for seed in run.seeds:
            for item, shift in zip(run.items, draws, strict=True):
                shown = {"vendi": vendi + shift, "nll": [40 * log_perplexity, 40]}
                yield measure_line(arm, seed, item, **{**shown, **changes})


def grades(run, right=None):
    """Grades of a whole run: how many of four samples are right."""
    right = right or dict(zip(ARMS, [1, 2, 3, 2], strict=True))
    for arm, count in right.items():
        for seed in run.seeds:
            for number, item in enumerate(run.items):
                correct = min(4, max(0, count + number % 3 - 1))
                yield grade_line(arm, seed, item, [place < correct for place in range(4)])


def arm_of(summary, name):
    return next(arm for arm in summary["arms"] if arm["arm"] == name)


def mentions(summary, *words):
    return [each for each in summary["cannot_conclude"] if all(word in each for word in words)]


# -- shape -----------------------------------------------------------------------------------


def test_the_summary_has_what_its_readers_expect():
    run = settings()
    summary = summarise(run, lines(run))
    assert list(summary) == [
        "task", "model", "backend", "samples", "seeds", "items", "private", "ks", "arms",
        "frontier", "comparisons", "cannot_conclude",
    ]  # fmt: skip
    assert [arm["arm"] for arm in summary["arms"]] == list(ARMS)
    assert set(summary["arms"][0]) == {
        "arm", "temperature", "pass_at_k", "maj_at_k", "distinct_answers", "vendi", "vendi_orders",
        "similarity", "distinct_n", "self_bleu", "perplexity", "entropy", "kl", "tokens_per_sample",
        "finished", "distiller_error", "novelty", "dynamics",
    }  # fmt: skip
    assert summary["frontier"][0].keys() == {
        "arm", "embedder", "scorer", "lift", "low", "high", "length_differs", "repeats"
    }  # fmt: skip
    assert summary["comparisons"][0].keys() == {
        "a", "b", "measure", "k", "difference", "low", "high"
    }  # fmt: skip
    assert summary["ks"] == [1, 2, 4]


def test_numbers_of_an_arm():
    run = settings()
    summary = summarise(run, lines(run, logprob=-60.0, reference_logprob=-70.0))
    arm = arm_of(summary, "esamp(beta=0.25)")
    vendi = arm["vendi"]["E"]
    assert vendi["value"] == pytest.approx(3.0, abs=0.1)
    assert vendi["low"] < vendi["value"] < vendi["high"]
    assert arm["vendi_orders"]["E"].keys() == {"2", "inf"}
    assert arm["perplexity"]["own"] == pytest.approx(dict.fromkeys(vendi, math.exp(2.5)))
    assert arm["entropy"]["value"] == pytest.approx(1.5)
    assert arm["kl"]["value"] == pytest.approx(10 / 40)
    assert arm["finished"]["value"] == pytest.approx(3 / 4)
    assert arm["tokens_per_sample"]["value"] == pytest.approx(10)
    assert arm["distinct_n"]["across"]["3"]["value"] == pytest.approx(0.8)
    assert arm["dynamics"]["E"] == [
        {"position": 8} | dict.fromkeys(vendi, pytest.approx(0.7)),
    ]
    assert arm["pass_at_k"] is arm["maj_at_k"] is arm["distinct_answers"] is None


def test_positions_are_in_order_of_number_and_not_of_letters():
    run = settings()
    shown = {str(position): 0.5 for position in (128, 16, 8, 64, 32)}
    arm = summarise(run, lines(run, dynamics=shown))["arms"][0]
    assert [each["position"] for each in arm["dynamics"]["E"]] == [8, 16, 32, 64, 128]


def test_a_perplexity_beyond_numbers_is_undefined_and_json_stays_json():
    run = settings()
    summary = summarise(run, lines(run, nll=[1e6, 40]))
    assert summary["arms"][0]["perplexity"]["own"]["value"] is None
    json.dumps(summary, allow_nan=False)


def test_the_order_of_lines_changes_no_byte():
    run = settings(verifiable=True)
    one = json.dumps(summarise(run, lines(run), grades(run)))
    backwards = summarise(run, reversed(list(lines(run))), reversed(list(grades(run))))
    assert json.dumps(backwards) == one


# -- frontier and comparisons ----------------------------------------------------------------


def test_lift_is_against_the_curve_of_the_run():
    """Halfway between the two vanilla temperatures in log-perplexity: 3.0 over 2.5."""
    run = settings()
    summary = summarise(run, lines(run))
    rows = {row["arm"]: row for row in summary["frontier"]}
    assert list(rows) == [arm for arm in ARMS if arm not in CURVE]
    assert rows["esamp(beta=0.25)"]["lift"] == pytest.approx(3 / 2.5, rel=0.01)
    assert rows["esamp(beta=0.25)"]["low"] > 1
    assert rows["esamp(beta=0.25)"]["length_differs"] is False
    assert rows["esamp(beta=0.25)"]["repeats"] is False
    assert rows["min-p(p=0.1)"]["lift"] is rows["min-p(p=0.1)"]["length_differs"] is None
    assert mentions(summary, "Outside vanilla's range", "min-p(p=0.1)")
    assert not mentions(summary, "Outside vanilla's range", "esamp")


def test_open_ended_arms_are_compared_with_plain_vanilla():
    run = settings()
    rows = summarise(run, lines(run))["comparisons"]
    assert [(row["a"], row["b"], row["measure"], row["k"]) for row in rows] == [
        (arm, "vanilla", "vendi:E", None) for arm in ARMS if arm != "vanilla"
    ]
    differences = [row["difference"] for row in rows]
    assert differences == pytest.approx([-1.0, 0.0, 0.5])


def test_verifiable_arms_are_compared_with_the_best_vanilla_for_each_k():
    run = settings(verifiable=True)
    summary = summarise(run, lines(run), grades(run))
    rows = [row for row in summary["comparisons"] if row["a"] == "esamp(beta=0.25)"]
    assert [(row["b"], row["measure"], row["k"]) for row in rows] == [
        ("vanilla(temperature=0.7)", "pass_at_k", k) for k in (1, 2, 4)
    ]
    assert rows[0]["difference"] == pytest.approx(1 / 4)
    arm = arm_of(summary, "esamp(beta=0.25)")
    expected = sum(pass_at_k(4, correct, 2) for correct in (2, 3, 4)) / 3
    assert arm["pass_at_k"]["2"]["value"] == pytest.approx(expected)
    assert arm["maj_at_k"]["4"]["value"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert arm["distinct_answers"]["value"] == pytest.approx((2 + 2 + 1) / 3)
    assert mentions(summary, "pass@1 includes none", "min-p(p=0.1)")


def test_a_task_without_answers_has_no_vote():
    run = settings(verifiable=True)
    plain = [
        {**line, "grades": [{**each, "answer": None} for each in line["grades"]]}
        for line in grades(run)
    ]
    arm = summarise(run, lines(run), plain)["arms"][0]
    assert arm["maj_at_k"] is arm["distinct_answers"] is None
    assert arm["pass_at_k"]["1"]["value"] is not None


def test_compare_gives_every_measure_of_two_arms_in_pairs():
    run = settings(verifiable=True)
    a, b = "esamp(beta=0.25)", "vanilla"
    rows = compare(run, (a, b), lines(run), grades(run))
    found = {(row["measure"], row["k"]): row for row in rows}
    assert found["vendi:E", None]["difference"] == pytest.approx(0.0)
    # At log-perplexity 2.5 vanilla has a Vendi score of 2.5, and ESamp 3.
    assert found["lift:E:own", None]["difference"] == pytest.approx(0.2, abs=0.01)
    assert found["lift:E:own", None]["low"] > 0.1
    assert found["log_perplexity:own", None]["difference"] == pytest.approx(-0.5)
    assert found["pass_at_k", 1]["low"] > 0
    assert {"vendi:E:2", "dynamics:E:8", "distinct:within:3", "self_bleu"} <= {
        measure for measure, _ in found
    }
    with pytest.raises(UsageError, match="the run has no arm 'nobody': give one of vanilla"):
        compare(run, (a, "nobody"), lines(run))


def test_lifts_are_compared_where_there_is_a_curve():
    run = settings(
        arms=[ArmSettings(name=name, temperature=1.0) for name in SHOWN if "0.7" not in name]
    )
    some = [line for line in lines(run) if "0.7" not in line["arm"]]
    rows = compare(run, ("esamp(beta=0.25)", "vanilla"), some)
    assert not any(row["measure"].startswith("lift") for row in rows)


# -- runs that are not whole -----------------------------------------------------------------


def test_missing_groups_are_said_and_the_rest_is_paired():
    run = settings()
    some = [line for line in lines(run) if line["arm"] == "vanilla" or line["item"] < "item 13"]
    summary = summarise(run, some)
    each = len(run.seeds) * len(run.items)
    found = sum(line["arm"] == "esamp(beta=0.25)" for line in some)
    assert mentions(summary, "not complete", f"esamp(beta=0.25) {each - found} of {each}")
    assert not mentions(summary, "not complete", "vanilla 0 of")
    row = next(row for row in summary["comparisons"] if row["a"] == "esamp(beta=0.25)")
    assert row["difference"] == pytest.approx(0, abs=1e-9)


def test_an_empty_run_has_a_summary_without_numbers():
    summary = summarise(settings(verifiable=True), [], [])
    nothing = {"value": None, "low": None, "high": None}
    assert summary["arms"][0]["vendi"]["E"] == nothing
    assert summary["arms"][0]["pass_at_k"]["1"] == nothing
    assert summary["arms"][0]["kl"] is summary["arms"][0]["novelty"] is None
    assert summary["comparisons"] == []
    assert mentions(summary, "not complete", "groups are missing", "vanilla 48 of 48")
    assert mentions(summary, "not complete", "grades of groups are missing")


def test_an_arm_that_was_not_reached_is_no_part_of_the_curve():
    run = settings()
    cool = ArmSettings(name="vanilla(temperature=0.5)", temperature=0.5)
    with_more = replace(run, arms=[*run.arms, cool])
    plain, more = summarise(run, lines(run)), summarise(with_more, lines(run))
    assert plain["frontier"] == more["frontier"]


# -- what cannot be concluded ----------------------------------------------------------------


def test_a_clear_run_with_two_readers_of_each_kind_says_little():
    run = settings(arms=settings().arms[:3], embedders=["E", "F"], scorers=["own", "outside"])

    def doubled():
        for line in lines(run):
            if line["arm"] in ARMS and line["arm"] != "min-p(p=0.1)":
                measures = dict(line["measures"])
                for name in ("vendi", "similarity", "cut", "dynamics"):
                    measures[name] = {"E": measures[name]["E"], "F": measures[name]["E"]}
                measures["nll"] = dict.fromkeys(("own", "outside"), measures["nll"]["own"])
                yield {**line, "measures": measures}

    summary = summarise(run, doubled())
    # That ESamp has vanilla's Vendi score at a lower perplexity is what was made up.
    assert summary["cannot_conclude"] == [
        f"The interval of the difference in vendi:{embedder} includes none: "
        "esamp(beta=0.25) against vanilla."
        for embedder in ("E", "F")
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": ["one"]}, ["There is one prompt: no interval"]),
        ({"items": list("abcdefg")}, ["There are 7 prompts"]),
        ({"seeds": [0]}, ["There is one seed"]),
        ({"samples": 1}, ["There is one sample per prompt"]),
        ({"embedders": []}, ["There is no embedder"]),
        ({"embedders": ["E"]}, ["one embedder (E)"]),
        ({"scorers": []}, ["There is no scorer"]),
        ({"scorers": ["own"]}, ["under the sampled model itself only"]),
    ],
)
def test_what_a_run_lacks_is_said(changes, words):
    run = settings(**changes)
    assert mentions(summarise(run, lines(run)), *words)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (["esamp(beta=0.25)"], "There is no vanilla arm: "),
        (["esamp(beta=0.25)"], "no vanilla arm at temperature 1"),
        (["vanilla", "esamp(beta=0.25)"], "There is one vanilla temperature (vanilla)"),
    ],
)
def test_a_run_without_controls_says_so_and_gives_no_lift(arms, words):
    run = settings(arms=[ArmSettings(name=name, temperature=ARMS[name]) for name in arms])
    summary = summarise(run, (line for line in lines(run) if line["arm"] in arms))
    assert mentions(summary, words)
    assert all(row["lift"] is None for row in summary["frontier"])
    assert not mentions(summary, "Outside")


def test_one_prompt_has_values_without_intervals():
    run = settings(items=["one"], verifiable=True)
    summary = summarise(run, lines(run), grades(run))
    arm = summary["arms"][0]
    for found in (arm["vendi"]["E"], arm["pass_at_k"]["1"], arm["perplexity"]["own"]):
        assert found["value"] is not None
        assert found["low"] is found["high"] is None
    assert all(row["low"] is None for row in summary["frontier"] + summary["comparisons"])


def test_a_length_of_its_own_is_said():
    run = settings()
    longer = (
        {**line, "measures": {**line["measures"], "tokens": 60}}
        if line["arm"] == "esamp(beta=0.25)"
        else line
        for line in lines(run)
    )
    summary = summarise(run, longer)
    assert summary["frontier"][0]["length_differs"] is True
    assert mentions(summary, "Mean length is more than 5% off", "esamp(beta=0.25)")


def test_samples_that_repeat_themselves_are_said():
    run = settings()
    loops = {"within": {"1": 0.5, "2": 0.6, "3": 0.7}, "across": {"1": 0.5, "2": 0.6, "3": 0.7}}
    looping = (
        {**line, "measures": {**line["measures"], "distinct": loops}}
        if line["arm"] == "esamp(beta=0.25)"
        else line
        for line in lines(run)
    )
    summary = summarise(run, looping)
    assert summary["frontier"][0]["repeats"] is True
    assert mentions(summary, "repeat themselves more than vanilla's", "esamp(beta=0.25)")
    assert not mentions(summarise(run, lines(run)), "repeat themselves")


def test_texts_that_an_embedder_cut_are_said():
    run = settings()
    assert mentions(summarise(run, lines(run, cut=1)), "Embedder E reads only", "25%")
    assert not mentions(summarise(run, lines(run, cut=None)), "reads only")


def test_a_lift_that_may_be_none_is_said():
    run = settings()
    draws = np.random.default_rng(1)
    noisy = (
        {**line, "measures": {**line["measures"], "vendi": {"E": {"1": draws.uniform(1, 4)}}}}
        for line in lines(run)
    )
    assert mentions(summarise(run, noisy), "includes no gain", "esamp(beta=0.25)")


def test_many_intervals_are_counted():
    run = settings(verifiable=True)
    more = [
        *run.arms,
        *(ArmSettings(name=f"esamp(beta={number})", temperature=1.0) for number in range(6)),
    ]
    wide = replace(run, arms=more)
    copies = [
        {**line, "arm": f"esamp(beta={number})"}
        for number in range(6)
        for line in grades(run, {"min-p(p=0.1)": 2})
    ]
    summary = summarise(wide, lines(wide), [*grades(run), *copies])
    assert mentions(summary, "intervals of 95 %", "miss by chance")


@pytest.mark.slow
def test_a_thousand_prompts_need_little_memory():
    run = settings(items=[str(number) for number in range(1000)], seeds=[0])
    tracemalloc.start()
    try:
        summarise(run, lines(run, novelty=[0.5] * 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6

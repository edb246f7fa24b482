import json
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esamp import ESamp, MeanDistiller, MLPDistiller, RecursiveDistiller, UsageError, Vanilla
from esamp.baselines import (
    ContrastiveDecoding,
    Cooling,
    Fire,
    FrequencyPenalty,
    GaussianNoise,
    Moderated,
    Neighbour,
    OverRIDE,
    Part,
    RandomSteering,
    Sharpening,
    Subtraction,
    TreeOfThoughts,
    VocabularySpace,
)
from esamp.baselines.part import Kept
from esamp.evals.arms import MATCHED, WORDS, Arm, parse_arm
from esamp.generation import Sampling

# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("vanilla", Arm()),
        ("vanilla()", Arm()),
        (" vanilla ( temperature = 0.8 , ) ", Arm(temperature=0.8)),
        ("vanilla(temperature=0)", Arm(temperature=0.0)),
        ("min-p", Arm(min_p=0.1)),
        ("min-p(min_p=0.03, top_k=20)", Arm(min_p=0.03, top_k=20)),
        ("fire", Arm(method=Fire())),
        ("fire(first_temperature=10)", Arm(method=Fire(first_temperature=10.0))),
        ("fire(within=esamp(beta=0.5))", Arm(method=Fire(within=ESamp(beta=0.5)))),
        ('fire(within="esamp(beta=0.5)")', Arm(method=Fire(within=ESamp(beta=0.5)))),
        ("override(heads=3)", Arm(method=OverRIDE(heads=3))),
        ("contrastive", Arm(method=ContrastiveDecoding())),
        ("contrastive(amateur=layers:4)", Arm(method=ContrastiveDecoding(amateur="layers:4"))),
        (
            "contrastive(amateur=Qwen/Qwen2.5-0.5B, alpha=0.2)",
            Arm(method=ContrastiveDecoding(amateur="Qwen/Qwen2.5-0.5B", alpha=0.2)),
        ),
        ("tree-of-thoughts", Arm(strategy=TreeOfThoughts())),
        ("esamp", Arm(method=ESamp())),
        ("esamp-paper", Arm(method=ESamp.paper())),
        ("esamp-paper(beta=0.5)", Arm(method=ESamp(beta=0.5, distiller=MLPDistiller()))),
        (
            "esamp(beta=0.3, distiller=mean, scope=sample, temperature=0.9)",
            Arm(method=ESamp(beta=0.3, distiller=MeanDistiller(), scope="sample"), temperature=0.9),
        ),
        (
            "esamp(distiller=recursive, features=64, ridge=10)",
            Arm(method=ESamp(distiller=RecursiveDistiller(features=64, ridge=10.0))),
        ),
        ("esamp(layer=2, truncation=fused)", Arm(method=ESamp(layer=2, truncation="fused"))),
        ("esamp(capture=false)", Arm(method=ESamp(capture=False))),
        (
            "kl-budget(budget=0.3, beta=1, distiller=mean)",
            Arm(method=Moderated(esamp=ESamp(beta=1.0, distiller=MeanDistiller()), budget=0.3)),
        ),
        ("entropy-gate", Arm(method=Moderated(gate=1.0))),
        ("clip(reach=0.2)", Arm(method=Moderated(reach=0.2))),
        ("warm-up(warm_up=8)", Arm(method=Moderated(warm_up=8))),
        (
            "decay(beta_halflife=32, budget=0.1)",
            Arm(method=Moderated(beta_halflife=32.0, budget=0.1)),
        ),
        ("fire(within=kl-budget)", Arm(method=Fire(within=Moderated(budget=0.1)))),
        ("sharpening(beta=1)", Arm(method=Sharpening(beta=1.0))),
        (
            "cooling(final=0.5, within=esamp(beta=1))",
            Arm(method=Cooling(final=0.5, within=ESamp(beta=1.0))),
        ),
        ("random-steering(lasting=8)", Arm(method=RandomSteering(lasting=8))),
        ("part(kept=mean)", Arm(method=Part(kept="mean"))),
        ("neighbour(beta=1)", Arm(method=Neighbour(esamp=ESamp(beta=1.0)))),
        ("esamp(learn_tokens=4)", Arm(method=ESamp(learn_tokens=4))),
        (
            "cooling(within=esamp(learn_tokens=4))",
            Arm(method=Cooling(within=ESamp(learn_tokens=4))),
        ),
        ("noise(beta=1)", Arm(method=GaussianNoise(esamp=ESamp(beta=1.0)))),
        (
            "frequency-penalty(weight=1, scope=shared)",
            Arm(method=FrequencyPenalty(weight=1.0, scope="shared")),
        ),
        ("subtraction(beta=0.1)", Arm(method=Subtraction(esamp=ESamp(beta=0.1)))),
        (
            "vocabulary(width=64)",
            Arm(method=VocabularySpace(esamp=ESamp(distiller=MLPDistiller(width=64)))),
        ),
        ('entropy-matched(arm="esamp(beta=0.25)")', Arm(matched_to="esamp")),
        (
            "entropy-matched(arm=tree-of-thoughts(top_p=0.9))",
            Arm(matched_to="tree-of-thoughts(top_p=0.9)", top_p=0.9, strategy=TreeOfThoughts()),
        ),
    ],
)
def test_an_arm_is_read(text, arm):
    assert parse_arm(text) == arm
    assert parse_arm(arm.name) == arm


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vanilla(temperature=1)", "vanilla"),
        ("vanilla(temperature=0.80)", "vanilla(temperature=0.8)"),
        ("vanilla(min_p=.1)", "min-p"),
        ("min-p(min_p=0)", "vanilla"),
        ("min-p(min_p=0.05)", "min-p(min_p=0.05)"),
        ("esamp(beta=0.25, distiller=recursive)", "esamp"),
        ("esamp(beta=-0)", "esamp(beta=0)"),
        ("esamp(learn_tokens=none)", "esamp"),
        ("esamp(distiller=mlp)", "esamp-paper"),
        ("esamp-paper(distiller=mean, beta=2.5e-1)", "esamp(distiller=mean)"),
        ("esamp(temperature=.9, beta=.5)", "esamp(beta=0.5, temperature=0.9)"),
        ("noise(distiller=mlp, width=384)", "noise(distiller=mlp)"),
        ("fire(within='esamp(beta=.5)', top_p=.9)", "fire(within=esamp(beta=0.5), top_p=0.9)"),
        ("fire(within=vanilla)", "fire"),
        ("clip(reach=0, budget=0.1)", "kl-budget"),
        ("entropy-gate(budget=0.1, beta=1)", "kl-budget(beta=1, gate=1)"),
        ("decay(warm_up=16)", "warm-up(beta_halflife=64)"),
        ("contrastive(amateur='a b')", 'contrastive(amateur="a b")'),
        ("entropy-matched(arm='esamp( distiller = mlp )')", "entropy-matched(arm=esamp-paper)"),
    ],
)
def test_equal_arms_have_equal_names(text, name):
    assert parse_arm(text).name == name
    assert str(parse_arm(name)) == name


TEXTS = st.text(min_size=1, max_size=12).filter(lambda text: not text.startswith("layers:"))
SHARES = st.floats(0, 1)
POSITIVE = st.floats(1e-12, 1e12)
WEIGHTS = st.floats(0, 1e12)
COUNTS = st.integers(1, 10**6)
DISTILLERS = st.one_of(
    st.builds(MeanDistiller, ridge=WEIGHTS),
    st.builds(RecursiveDistiller, features=COUNTS, ridge=st.floats(0.01, 1e9), seed=COUNTS),
    st.builds(MLPDistiller, width=COUNTS, learning_rate=POSITIVE, clip=POSITIVE),
)
ESAMPS = st.builds(
    ESamp,
    beta=WEIGHTS,
    distiller=DISTILLERS,
    scope=st.sampled_from(["prompt", "shared", "sample"]),
    truncation=st.sampled_from(["reference", "fused"]),
    push=st.sampled_from(["residual", "orthogonal"]),
    layer=COUNTS,
    learn_tokens=st.none() | COUNTS,
    capture=st.booleans(),
)
METHODS = st.one_of(
    st.just(Vanilla()),
    ESAMPS,
    st.builds(GaussianNoise, esamp=ESAMPS),
    st.builds(Subtraction, esamp=ESAMPS),
    st.builds(RandomSteering, beta=st.floats(0, 4), lasting=st.integers(0, 99)),
    st.builds(Part, esamp=ESAMPS, kept=st.sampled_from(get_args(Kept))),
    st.builds(Neighbour, esamp=ESAMPS),
    st.builds(
        Moderated,
        esamp=ESAMPS,
        budget=WEIGHTS,
        gate=WEIGHTS,
        reach=WEIGHTS,
        warm_up=COUNTS,
        beta_halflife=WEIGHTS,
    ),
    st.builds(Sharpening, beta=WEIGHTS),
    st.builds(OverRIDE, strength=WEIGHTS, heads=COUNTS, rank=COUNTS, learning_rate=POSITIVE),
    st.builds(ContrastiveDecoding, amateur=TEXTS, beta=WEIGHTS, alpha=SHARES),
    st.builds(FrequencyPenalty, weight=WEIGHTS, scope=st.sampled_from(["prompt", "sample"])),
)
ARMS = st.builds(
    Arm,
    method=METHODS | st.builds(Fire, first_temperature=POSITIVE, within=METHODS),
    temperature=POSITIVE,
    top_p=st.floats(0.001, 1),
    top_k=st.integers(0, 10**6),
    min_p=SHARES,
)


@given(ARMS)
def test_every_name_is_read_back_as_its_arm(arm):
    assert parse_arm(str(arm)) == arm
    assert parse_arm(str(arm)).name == arm.name
    assert parse_arm(json.loads(json.dumps(arm.name))) == arm
    matched = parse_arm(f"{MATCHED}(arm={arm})")
    assert parse_arm(str(matched)) == matched
    assert matched.matched_to == arm.name


@given(ARMS, ARMS)
def test_different_arms_have_different_names(one, other):
    assume(one != other)
    assert one.name != other.name


# --- refusing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beam", "there is no arm 'beam': give one of min-p, vanilla, fire, override, contrast"),
        ("beam", "vocabulary, entropy-matched$"),
        ("esamp(gamma=1)", r"esamp has no setting 'gamma' here: give one of beta, distiller, feat"),
        ("esamp(distiller=mean, features=3)", "no setting 'features' here: give one of beta, dist"),
        ("vanilla(scope=prompt)", "give one of temperature, top_p, top_k, min_p$"),
        ("tree-of-thoughts(beta=1)", "give one of branches, temperature"),
        ("esamp(name=x)", "no setting 'name'"),
        ("esamp(beta=high)", "beta is 'high': give a number"),
        ("esamp(beta=1_0)", "beta is '1_0': give a number"),
        ("esamp(beta=-1)", "beta is -1.0: give a finite number"),
        ("esamp(beta=1e999)", "beta is inf"),
        ("esamp(features=2.5)", "features is '2.5': give a whole number"),
        (f"esamp(seed={2**70})", "give a whole number below"),
        ("esamp(scope=all)", "scope is 'all': give one of prompt, shared, sample"),
        ("esamp(distiller=gru)", "distiller is 'gru': give one of recursive, mean, mlp"),
        ("esamp(temperature=0)", r"temperature is 0, and greedy .* vanilla\(temperature=0\)"),
        ("vanilla(temperature=nan)", "temperature is 'nan'"),
        ("vanilla(temperature=-1)", "temperature is -1"),
        ("vanilla(top_p=0)", "top-p is 0"),
        ("min-p(min_p=2)", "min-p is 2"),
        ("fire(first_temperature=0)", "first_temperature is 0"),
        ("fire(within=fire)", "within is FIRE too"),
        ("fire(within=esamp(temperature=0.5))", "give a method alone"),
        ("fire(within=tree-of-thoughts)", "give a method alone"),
        ("fire(within=entropy-matched(arm=esamp))", "give a method alone"),
        ("contrastive(amateur=layers:0)", "amateur is 'layers:0': give layers:N"),
        ("vocabulary(distiller=mean)", "distiller is 'mean': only mlp"),
        ("entropy-matched", r"takes one setting, arm: give entropy-matched\(arm=esamp\)"),
        ("entropy-matched(arm=esamp, temperature=1)", "takes one setting"),
        ("entropy-matched(arm=entropy-matched(arm=esamp))", "would be itself"),
        ("entropy-matched(arm=beam)", "there is no arm 'beam'"),
        ("", "give a word such as esamp"),
        ("esamp beta=1", "give a word such as esamp"),
        ("esamp(", "not closed"),
        ("esamp(beta=1", "give a word such as esamp"),
        ("esamp(beta=1))", "do not pair up"),
        ("esamp)", "give a word such as esamp"),
        ("esamp(beta)", "'beta' is no setting: give setting=value"),
        ("esamp(beta=)", "'beta=' is no setting"),
        ("esamp(,beta=1)", "'' is no setting"),
        ("esamp(beta=1, beta=2)", "beta is there twice"),
        ("contrastive(amateur='a)", "do not pair up"),
        ("__import__('os').system('true')", "do not pair up"),
        ("fire(within=" * 90 + ")" * 90, "it has 1170 characters: give 1000 at most"),
        ("entropy-matched(arm=" * 40 + "esamp" + ")" * 40, "would be itself"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(text, message):
    with pytest.raises(UsageError, match=message) as raised:
        parse_arm(text)
    assert str(raised.value).startswith(f"arm {text[:1000]!r}: ")
    assert "\n" not in str(raised.value)


@given(st.text(alphabet="esampbeta=(),.\"'\\ 01-", max_size=40) | st.text(max_size=30))
def test_any_text_is_an_arm_or_a_usage_error(text):
    try:
        arm = parse_arm(text)
    except UsageError:
        return
    assert parse_arm(arm.name) == arm


@dataclass(frozen=True, kw_only=True)
class Unknown(Sharpening):
    pass


def test_a_method_without_a_word_has_no_name():
    with pytest.raises(UsageError, match="method 'sharpening' has no word among min-p"):
        _ = Arm(method=Unknown()).name


# --- using --------------------------------------------------------------------------------------


def test_an_arm_says_how_tokens_are_drawn():
    arm = parse_arm("esamp(temperature=0.9, top_p=0.95, top_k=50, min_p=0.05)")
    assert arm.sampling(32) == Sampling(
        temperature=0.9, top_p=0.95, top_k=50, min_p=0.05, max_new_tokens=32
    )


def test_an_entropy_matched_arm_takes_truncation_and_prompts_of_its_target_and_a_temperature():
    arm = parse_arm("entropy-matched(arm=esamp(top_p=0.9, temperature=0.7))")
    assert arm.method == Vanilla()
    assert arm.matched_to == "esamp(temperature=0.7, top_p=0.9)"
    assert arm.sampling(8, temperature=0.83) == Sampling(
        temperature=0.83, top_p=0.9, max_new_tokens=8
    )
    assert arm.runs_on_vllm


ON_VLLM = {
    "vanilla", "min-p", "tree-of-thoughts", "cooling", "esamp", "esamp-paper", "fire", "noise",
    "sharpening",
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_it_says_whether_vllm_runs_it(word):
    assert parse_arm(word).runs_on_vllm == (word in ON_VLLM)
    assert parse_arm(word).name == word


@pytest.mark.parametrize(
    ("arm", "runs"),
    [
        ("cooling(within=esamp)", True),
        ("cooling(within=noise)", True),
        ("fire(within=cooling(within=esamp))", True),
        ("cooling(within=override)", False),
        ("cooling(within=esamp(beta=0))", True),
        ("cooling", True),
    ],
)
def test_vllm_cools_what_it_steers(arm, runs):
    assert parse_arm(arm).runs_on_vllm is runs

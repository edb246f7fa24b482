"""What every decoding method promises, run through one small loop with rows that come and go."""

from dataclasses import replace

import pytest
import torch

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
    VocabularySpace,
)
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp
from esamp.method import Method, Vanilla
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from no_sync import ForbidHostSync
from steps import no_tokens, random_states, random_step
from toy import VOCAB, call_of, decode, transcript

DISTILLERS = [
    RecursiveDistiller(features=16, ridge=10.0),
    MLPDistiller(width=8, learning_rate=3e-3),
    MeanDistiller(),
]
ESAMP = {f"esamp-{each.name}": ESamp(beta=0.5, distiller=each) for each in DISTILLERS}
NOISE = {f"noise-{name}": GaussianNoise(esamp=settings) for name, settings in ESAMP.items()}
SUBTRACTION = {f"subtraction-{name}": Subtraction(esamp=each) for name, each in ESAMP.items()}
VOCABULARY = {"vocabulary": VocabularySpace(esamp=ESAMP["esamp-mlp"])}
MODERATED = {
    "kl-budget": Moderated(esamp=ESAMP["esamp-recursive"], budget=0.05),
    "entropy-gate": Moderated(esamp=ESAMP["esamp-mean"], gate=2.0),
    "clip": Moderated(esamp=ESAMP["esamp-recursive"], reach=0.1),
    "warm-up": Moderated(esamp=ESAMP["esamp-mean"], warm_up=8),
    "decay": Moderated(esamp=ESAMP["esamp-mlp"], beta_halflife=8.0),
    "all-knobs": Moderated(
        esamp=ESAMP["esamp-recursive"],
        budget=0.05,
        gate=2.0,
        reach=0.3,
        warm_up=4,
        beta_halflife=16.0,
    ),
}
PARTS = {
    f"part-{kept}": Part(esamp=ESAMP["esamp-recursive"], kept=kept)
    for kept in ("deep", "mean", "rest")
}
NEIGHBOUR = {f"neighbour-{name}": Neighbour(esamp=each) for name, each in ESAMP.items()}
EARLY = {f"early-{name}": replace(each, learn_tokens=2) for name, each in ESAMP.items()}
ORTHOGONAL = {
    f"orthogonal-{name}": replace(each, push="orthogonal") for name, each in ESAMP.items()
}
LATE = SUBTRACTION | PARTS | ORTHOGONAL
"""They push nothing as long as nothing is predicted."""
COOLING = {f"cooling-{name}": Cooling(within=each) for name, each in ESAMP.items()}
JUDGING = ESAMP | COOLING | NOISE | LATE | VOCABULARY | MODERATED | NEIGHBOUR | EARLY
"""They push states and give each a novelty."""
PUSHING = JUDGING | {
    "sharpening": Sharpening(beta=0.5),
    "cooling": Cooling(over=4),
    "random-steering": RandomSteering(),
    "random-steering-3": RandomSteering(lasting=3),
}
OVERRIDE = {
    "override": OverRIDE(rank=4, learning_rate=0.05),
    "override-2": OverRIDE(heads=2, rank=4, learning_rate=0.05),
    "cooling-override": Cooling(within=OverRIDE(rank=4, learning_rate=0.05)),
    "fire-override": Fire(within=OverRIDE(rank=4, learning_rate=0.05)),
}
EARLY_EXIT = ContrastiveDecoding(amateur="layers:1")
REWEIGHTING = OVERRIDE | {
    "fire": Fire(first_top_k=4),
    "fire-esamp": Fire(within=ESAMP["esamp-recursive"]),
    "fire-contrastive": Fire(within=EARLY_EXIT),
    "fire-cooling": Fire(within=Cooling(within=ESAMP["esamp-mean"])),
    "fire-kl-budget": Fire(within=MODERATED["kl-budget"]),
    "contrastive-early-exit": EARLY_EXIT,
    "contrastive-second-model": ContrastiveDecoding(amateur="toy"),
    "frequency-penalty": FrequencyPenalty(),
    "frequency-penalty-shared": FrequencyPenalty(scope="shared"),
}
ACTIVE = PUSHING | REWEIGHTING
OFF = ESamp(beta=0.0)
INERT = {
    "vanilla": Vanilla(),
    "esamp-0": OFF,
    "noise-0": GaussianNoise(esamp=OFF),
    "subtraction-0": Subtraction(esamp=OFF),
    "part-0": Part(esamp=OFF),
    "neighbour-0": Neighbour(esamp=OFF),
    "kl-budget-0": Moderated(esamp=OFF, budget=0.05, gate=2.0),
    "clip-0": Moderated(esamp=OFF, reach=0.1, warm_up=4, beta_halflife=8.0),
    "random-steering-0": RandomSteering(beta=0.0),
    "cooling-1": Cooling(final=1.0),
    "cooling-1-esamp-0": Cooling(final=1.0, within=OFF),
    "sharpening-0": Sharpening(beta=0.0),
    "override-0": OverRIDE(strength=0.0),
    "contrastive-0": ContrastiveDecoding(amateur="layers:1", beta=0.0, alpha=0.0),
    "frequency-penalty-0": FrequencyPenalty(weight=0.0),
}
ALL = ACTIVE | INERT


def each(methods):
    return pytest.mark.parametrize("method", methods.values(), ids=methods.keys())


@each(ALL)
def test_it_is_a_method_that_can_be_compared_and_says_whether_it_is_inert(method):
    assert isinstance(method, Method)
    assert {method: 1}[method] == 1
    assert method.inert == (method in INERT.values())


@each(ALL)
def test_every_unfinished_row_draws_a_token(method):
    for turn in decode(method):
        drawing = turn.step.unfinished
        assert turn.logits[drawing].amax(dim=-1).isfinite().all(), "tokens may be cut, not all"
        assert turn.drawn.logprobs[drawing].isfinite().all()
        assert ((turn.drawn.tokens >= 0) & (turn.drawn.tokens < VOCAB)).all()


@each(PUSHING)
def test_steered_are_the_unfinished_rows_after_their_first_token(method):
    seen = set()
    for turn in decode(method):
        steered = turn.step.unfinished & (turn.step.positions > 0)
        moved = (turn.push.states != turn.step.deep).any(dim=-1)
        still = moved if method in LATE.values() else steered
        assert torch.equal(moved, steered & still)
        if method in JUDGING.values():
            assert torch.equal(turn.push.novelty.isfinite(), steered)
        seen |= set(zip(turn.step.unfinished.tolist(), steered.tolist(), strict=True))
    assert seen == {(True, True), (True, False), (False, False)}, "the loop shows all cases"


@each(ACTIVE)
def test_an_active_method_changes_what_is_drawn_from(method):
    assert any(not torch.equal(turn.logits, turn.reference) for turn in decode(method))


@each(INERT)
def test_an_inert_method_leaves_every_logit_as_it_is_bit_for_bit(method):
    for turn, plain in zip(decode(method), decode(Vanilla()), strict=True):
        assert torch.equal(turn.logits, turn.reference)
        assert torch.equal(turn.drawn.tokens, plain.drawn.tokens)


@each(ALL)
def test_the_same_seed_gives_the_same_samples_also_from_settings_used_before(method):
    torch.manual_seed(1)
    first = decode(method)
    torch.manual_seed(2)
    for turn, again in zip(first, decode(method), strict=True):
        assert torch.equal(turn.drawn.tokens, again.drawn.tokens)
        assert torch.equal(turn.logits, again.logits)
    other = decode(method, seed=1)
    assert any(transcript(first, sample) != transcript(other, sample) for sample in range(5))


@each({name: each for name, each in ALL.items() if name not in NOISE | OVERRIDE | NEIGHBOUR})
def test_other_groups_do_not_change_a_groups_samples(method):
    """Property 13. Noise is drawn for the whole call, OverRIDE's heads are the call's, and a
    neighbour is the point of that control."""
    if method.scope == "shared":
        pytest.skip("all rows are one group")
    crowd = decode(method)
    alone = decode(method, groups=(0, 0, 0), lengths=(20, 4, 9), arrivals=(0, 0, 0))
    for sample in range(3):
        assert transcript(crowd, sample) == transcript(alone, sample)


@each(ALL)
def test_no_number_is_drawn_from_the_global_generator(method):
    before = torch.get_rng_state()
    decode(method)
    assert torch.equal(torch.get_rng_state(), before)


@each(ALL)
def test_a_step_never_waits_for_the_device(method):
    steering, step = method.start(call_of([0, 1, 0])), random_step([0, 1, 0])
    tokens, logits = no_tokens(step), random_states(3, VOCAB)
    for _ in range(2):  # some make their state in the first step
        with ForbidHostSync():
            steering.steer(step)
            steering.reweight(step, logits, logits)
            steering.learn(step, tokens)


@each(ALL)
def test_a_batch_may_be_empty(method):
    steering, step = method.start(call_of([0, 1, 0])), random_step([], capacity=2)
    push = steering.steer(step)
    assert push is None or push.states.shape == step.deep.shape
    logits = torch.empty(0, VOCAB)
    assert steering.reweight(step, logits, logits).shape == logits.shape
    steering.learn(step, no_tokens(step))


@each(ALL)
def test_greedy_decoding_asks_for_no_weights(method):
    steering, step = method.start(call_of([0, 1, 0])), random_step([0, 1, 0])
    steering.steer(step)
    steering.learn(step, no_tokens(step))


@each(ALL)
def test_it_runs_where_engines_run_it(method):
    """In inference mode, in which what is made can take no gradients later."""
    expected = decode(method)
    with torch.inference_mode():
        turns = decode(method)
    for turn, usual in zip(turns, expected, strict=True):
        assert torch.equal(turn.drawn.tokens, usual.drawn.tokens)

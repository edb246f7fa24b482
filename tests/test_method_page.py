"""What docs/method.md claims, computed: identities on the package's code, numbers in its text."""

import math
from pathlib import Path

import pytest
import torch

from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.fusion import fuse_logits, fuse_survivors, push_states
from esamp.layout import Layout
from esamp.recursive import BLOCK, LEAST_RIDGE, RecursiveDistiller
from esamp.sampling import top_k, top_p
from steps import no_tokens, random_states, random_step

PAGE = (Path(__file__).parent.parent / "docs" / "method.md").read_text()
HIDDEN, VOCAB, STEPS, ROWS = 24, 13, 5, 16
EVERYONE = torch.ones(ROWS, dtype=torch.bool)
ONE_GROUP = Layout.of([0] * ROWS, 1)


def stands(*numbers):
    """Assert that numbers, rounded as given, stand on the page."""
    missing = [number for number in numbers if number not in PAGE.replace("−", "-")]
    assert not missing, f"not on the page: {missing}"


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def taught(distiller, hidden=HIDDEN, steps=STEPS):
    """A bank of one group, and the rows that it was taught."""
    bank, rows = distiller.open(1, hidden, "cpu"), []
    for step in range(steps):
        shallow, deep = (
            random_states(ROWS, hidden, 2 * step),
            random_states(ROWS, hidden, 2 * step + 1),
        )
        bank.learn(shallow, deep, EVERYONE, ONE_GROUP)
        rows.append((shallow, deep))
    shallow, deep = (torch.cat(each) for each in zip(*rows, strict=True))
    return bank, shallow, deep


# -- what is sampled from, and fusion ----------------------------------------------------------


def objective(p, pi, novelty, beta):
    return (p * novelty).sum() - (p * (p / pi).log()).sum() / beta


def test_the_fused_distribution_maximises_novelty_less_kl():
    pi, q = normal(VOCAB).softmax(0), normal(VOCAB, seed=1).softmax(0)
    novelty, beta = (pi / q).log(), 0.7
    best = fuse_logits(pi.log()[None], q.log()[None], beta)[0].softmax(0)
    value = objective(best, pi, novelty, beta)
    torch.testing.assert_close(value, (pi * (beta * novelty).exp()).sum().log() / beta)
    for seed in range(20):
        other = (best.log() + 0.1 * normal(VOCAB, seed=seed)).softmax(0)
        assert objective(other, pi, novelty, beta) < value


def test_a_head_with_bias_and_scale_reads_one_pushed_state():
    weight, bias = normal(VOCAB, HIDDEN), normal(VOCAB, seed=1)
    deep, predicted = normal(4, HIDDEN, seed=2), normal(4, HIDDEN, seed=3)

    def head(states):
        return 0.3 * (states @ weight.T + bias)

    pushed = push_states(deep, deep - predicted, torch.tensor(0.25))
    torch.testing.assert_close(head(pushed), fuse_logits(head(deep), head(predicted), 0.25))


def test_capped_logits_are_fused_before_the_cap():
    cap, beta = 30.0, 0.25
    full, nothing = torch.tensor([[60.0]]), torch.tensor([[0.0]])

    def capped(values):
        return cap * torch.tanh(values / cap)

    outside = fuse_logits(capped(full), capped(nothing), beta).item()
    ours = capped(push_states(full, full - nothing, torch.tensor(beta))).item()
    assert outside > cap > ours
    stands(f"{outside:.2f}", f"{ours:.2f}")


def test_the_two_readings_of_truncation_keep_other_tokens():
    reference = torch.tensor([[0.5, 0.38, 0.08, 0.04]]).log()
    fused = fuse_logits(reference, torch.zeros_like(reference), 0.25)
    assert top_p(reference, 0.9).isfinite().sum() == 3
    assert top_p(fused, 0.9).isfinite().sum() == 2
    stands(
        "three\ntokens", "of which two are kept", *(f"{each:.3f}" for each in fused.softmax(-1)[0])
    )


def test_reference_truncation_draws_no_token_that_plain_decoding_cuts():
    reference, fused = normal(50, VOCAB), normal(50, VOCAB, seed=1)
    processed = top_k(reference / 0.7, 4)
    scores = fuse_survivors(processed, reference, fused, 0.7)
    assert torch.equal(scores.isfinite(), processed.isfinite())
    torch.testing.assert_close(scores[scores.isfinite()], (fused / 0.7)[scores.isfinite()])


# -- between a temperature and a push ----------------------------------------------------------


def test_a_push_is_a_temperature_and_what_lies_across():
    deep, predicted, beta = normal(4, HIDDEN), normal(4, HIDDEN, seed=1), 0.25
    along = (predicted * deep).sum(dim=-1, keepdim=True) / deep.square().sum(dim=-1, keepdim=True)
    across = predicted - along * deep
    pushed = push_states(deep, deep - predicted, torch.tensor(beta))
    torch.testing.assert_close(pushed, (1 + beta * (1 - along)) * deep - beta * across)
    assert ((across * deep).sum(dim=-1).abs() < 1e-12).all()


@pytest.mark.parametrize("distiller", [RecursiveDistiller(), MeanDistiller()])
def test_the_first_steered_token_of_a_group_is_a_temperature(distiller):
    explorer, step = Explorer(ESamp(beta=0.25, distiller=distiller), 1, HIDDEN, "cpu"), None
    step = random_step([0] * 4, hidden=HIDDEN)
    torch.testing.assert_close(explorer.steer(step).states, step.deep / 0.8)
    explorer.learn(step, no_tokens(step))
    assert not torch.allclose(explorer.steer(step).states, step.deep / 0.8)
    stands("1/(1+β), 0.8 at β 0.25")


# -- the recursive distiller -------------------------------------------------------------------


def test_one_block_of_the_update_is_woodburys_identity():
    old, new = normal(30, 8), normal(ROWS, 8, seed=1)
    targets, new_targets = normal(30, 3, seed=2), normal(ROWS, 3, seed=3)
    unit = torch.eye(8, dtype=torch.float64)
    inverse = torch.linalg.inv(2 * unit + old.T @ old)
    weights = inverse @ old.T @ targets
    covariance = torch.eye(ROWS, dtype=torch.float64) + new @ inverse @ new.T
    gain = inverse @ new.T @ torch.linalg.inv(covariance)
    after = torch.linalg.inv(2 * unit + old.T @ old + new.T @ new)
    torch.testing.assert_close(inverse - gain @ new @ inverse, after)
    torch.testing.assert_close(after @ new.T, gain)
    torch.testing.assert_close(
        weights + gain @ (new_targets - new @ weights),
        after @ (old.T @ targets + new.T @ new_targets),
    )


def test_the_order_of_rows_and_the_size_of_blocks_change_nothing():
    distiller = RecursiveDistiller(features=32)
    bank, shallow, deep = taught(distiller)
    rows = len(shallow)
    other = distiller.open(1, HIDDEN, "cpu")
    for some in torch.randperm(rows, generator=torch.Generator().manual_seed(1)).split(7):
        layout, taught_rows = Layout.of([0] * len(some), 1), torch.ones(len(some), dtype=torch.bool)
        other.learn(shallow[some], deep[some], taught_rows, layout)
    phi = bank.featurise(shallow).double()
    gram = distiller.ridge * torch.eye(phi.shape[1], dtype=torch.float64) + phi.T @ phi
    batch = torch.linalg.solve(gram, phi.T @ deep.double()).float()
    for weights in (bank.weights[0], other.weights[0]):
        torch.testing.assert_close(weights, batch, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        bank.inverse[0].double(), torch.linalg.inv(gram), rtol=1e-3, atol=1e-6
    )


def test_masked_rows_change_nothing_though_they_hold_nan():
    distiller, layout = RecursiveDistiller(features=32), Layout.of([0] * 8 + [1] * 8, 2)
    bank, alone = distiller.open(2, HIDDEN, "cpu"), distiller.open(1, HIDDEN, "cpu")
    shallow, deep = random_states(ROWS, HIDDEN), random_states(ROWS, HIDDEN, 1)
    bank.learn(shallow, deep, EVERYONE, layout)
    alone.learn(shallow[:8], deep[:8], EVERYONE[:8], Layout.of([0] * 8, 1))
    before = bank.weights[1].clone(), bank.inverse[1].clone()
    some = torch.tensor([True, False, True, True] + [False] * 12)
    shallow[~some], deep[~some] = torch.nan, torch.nan
    bank.learn(shallow, deep, some, layout)
    alone.learn(shallow[some], deep[some], EVERYONE[:3], Layout.of([0] * 3, 1))
    torch.testing.assert_close(bank.weights[0], alone.weights[0])
    torch.testing.assert_close(bank.inverse[0], alone.inverse[0])
    assert torch.equal(bank.weights[1], before[0])
    assert torch.equal(bank.inverse[1], before[1])


def test_padding_keeps_its_prior_and_has_no_weight():
    distiller = RecursiveDistiller(features=32)
    bank, _, _ = taught(distiller)
    padding = bank.inverse[0, 33:]
    assert torch.equal(padding[:, 33:], torch.eye(len(padding)) / distiller.ridge)
    assert not padding[:, :33].any()
    assert not bank.weights[0, 33:].any()


def test_numbers_of_the_limits_of_fp32():
    rounding = 2.0**-24
    features = RecursiveDistiller().features + 1
    least = rounding * BLOCK * features
    assert f"{rounding:.0e}".replace("e-0", "e-") == "6e-8"
    stands(f"6e-8·{BLOCK}·{features} = {1e4 * least:.1f}e-4", f"below {LEAST_RIDGE}")
    assert least < 0.001 < LEAST_RIDGE


def test_what_the_default_ridge_weighs():
    ridge, norm = RecursiveDistiller().ridge, RecursiveDistiller().features + 1
    bank = RecursiveDistiller().open(1, 512, "cpu")
    phi = bank.featurise(random_states(400, 512))
    assert phi.square().sum(dim=-1).mean() == pytest.approx(norm, rel=0.05)
    stands(f"{norm / (norm + ridge):.2f} after", f"{ROWS * norm / (ROWS * norm + ridge):.3f} after")
    assert ridge / norm == pytest.approx(0.4, abs=0.02)
    place = random_states(1, 512, 7)
    bank.learn(place.expand(ROWS, -1), place.expand(ROWS, -1), EVERYONE, ONE_GROUP)
    own = bank.featurise(place).square().sum().item()
    predicted = bank.predict(place, Layout.of([0], 1))
    torch.testing.assert_close(predicted, ROWS * own / (ROWS * own + ridge) * place)


# -- what the distilled logits are -------------------------------------------------------------


def test_distilled_logits_are_a_weighted_sum_of_the_groups_earlier_ones():
    bank, shallow, deep = taught(RecursiveDistiller(features=32))
    head, here = random_states(VOCAB, HIDDEN, 99), random_states(3, HIDDEN, 100)
    weights = bank.featurise(here) @ bank.inverse[0] @ bank.featurise(shallow).T
    distilled = bank.predict(here, Layout.of([0] * 3, 1)) @ head.T
    torch.testing.assert_close(distilled, weights @ (deep @ head.T), rtol=1e-3, atol=1e-4)
    powers = (weights[:, :, None] * (deep @ head.T).log_softmax(-1)).sum(dim=1).softmax(-1)
    torch.testing.assert_close(distilled.softmax(-1), powers, rtol=1e-3, atol=1e-5)
    assert (weights < 0).any(), "weights may be negative"


# -- mean-only ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.01, 5.0, 100.0])
def test_mean_only_is_ridge_regression_on_the_bias_alone(ridge):
    mean, shallow, deep = taught(MeanDistiller(ridge=ridge))
    recursive, _, _ = taught(RecursiveDistiller(features=0, ridge=ridge))
    rows, here = len(deep), Layout.of([0], 1)
    shrunk = rows / (rows + ridge) * deep.mean(dim=0, keepdim=True)
    torch.testing.assert_close(mean.predict(shallow[:1], here), shrunk, rtol=1e-4, atol=1e-6)
    # What the page says of fp32: the rounding of 1/λ, beside a P that falls to 1/16 in one block.
    lost = 2.0**-24 / ridge * ROWS
    predicted = recursive.predict(shallow[:1], here)
    torch.testing.assert_close(predicted, shrunk, rtol=1e-4, atol=1e-6 + lost)


def test_mean_only_divides_by_the_geometric_mean():
    bank, shallow, deep = taught(MeanDistiller())
    head = random_states(VOCAB, HIDDEN, 99)
    q = (bank.predict(shallow[:1], Layout.of([0], 1)) @ head.T).softmax(-1)[0]
    torch.testing.assert_close(q, (deep @ head.T).log_softmax(-1).mean(dim=0).softmax(-1))


def test_the_defaults_of_mean_and_recursive_shrink_differently():
    assert MeanDistiller().ridge == 0
    ridge = RecursiveDistiller(features=0).ridge
    after = [ROWS * steps / (ROWS * steps + ridge) for steps in (1, 100)]
    stands(f"{after[0]:.2f} of the mean after one step and {after[1]:.2f} after 100")
    bank, shallow, deep = taught(RecursiveDistiller(features=0), steps=1)
    torch.testing.assert_close(
        bank.predict(shallow, ONE_GROUP), (after[0] * deep.mean(dim=0)).expand(ROWS, -1)
    )


# -- leverage ----------------------------------------------------------------------------------


def test_leverage_is_the_posterior_variance():
    """Computed by conditioning Gaussians on what was seen, without P."""
    distiller = RecursiveDistiller(features=32)
    bank, shallow, _ = taught(distiller)
    here = random_states(4, HIDDEN, 100)
    seen, new = bank.featurise(shallow).double(), bank.featurise(here).double()
    prior, cross = new @ new.T / distiller.ridge, new @ seen.T / distiller.ridge
    noisy = seen @ seen.T / distiller.ridge + torch.eye(len(seen), dtype=torch.float64)
    variance = (prior - cross @ torch.linalg.solve(noisy, cross.T)).diagonal().float()
    leverage = bank.leverage(here, Layout.of([0] * 4, 1))
    torch.testing.assert_close(leverage, variance, rtol=1e-3, atol=1e-5)


def test_the_squared_residual_grows_by_the_leverage():
    """Every entry of the state is a world of its own: its weights and its noise are drawn."""
    worlds, noise, distiller = 20_000, 0.5, RecursiveDistiller(features=7, ridge=4.0)
    bank = distiller.open(1, worlds, "cpu")
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    shallow = draw(6, worlds)
    phi = bank.featurise(shallow)
    drawn = noise * (phi @ draw(phi.shape[1], worlds) / distiller.ridge**0.5 + draw(6, worlds))
    bank.learn(shallow[:4], drawn[:4], torch.ones(4, dtype=torch.bool), Layout.of([0] * 4, 1))
    new = Layout.of([0, 0], 1)
    squared = (drawn[4:] - bank.predict(shallow[4:], new)).square().mean(dim=-1)
    leverage = bank.leverage(shallow[4:], new)
    assert (leverage > 0.2).all(), "enough to be told from none"
    torch.testing.assert_close(squared, noise**2 * (1 + leverage), rtol=0.04, atol=0.0)


def test_the_product_of_leverages_is_a_determinant():
    distiller, one = RecursiveDistiller(features=15, ridge=2.0), Layout.of([0], 1)
    bank, logs, rows = distiller.open(1, HIDDEN, "cpu"), [], random_states(60, HIDDEN)
    for row in rows.split(1):
        logs.append(bank.leverage(row, one).log1p().item())
        bank.learn(row, row, torch.ones(1, dtype=torch.bool), one)
    phi = bank.featurise(rows).double()
    gram = torch.eye(phi.shape[1], dtype=torch.float64) + phi.T @ phi / distiller.ridge
    assert sum(logs) == pytest.approx(torch.logdet(gram).item(), rel=1e-3)
    longest = phi.square().sum(dim=-1).max()
    bound = phi.shape[1] * math.log1p(len(rows) * longest / (phi.shape[1] * distiller.ridge))
    assert sum(logs) <= bound


# -- not proven --------------------------------------------------------------------------------


def draw_by(pi, values):
    """The best distribution for values less KL, β 1."""
    weight = pi * values.exp()
    return weight / weight.sum()


def soft_value(pi, values):
    return (pi * values.exp()).sum().log()


def gain(policy, pi, values):
    return objective(policy, pi, values, beta=1.0).item()


HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)


def test_per_step_novelty_is_not_the_value_on_two_steps():
    now, later = torch.tensor([1, 0.6]).double(), torch.tensor([0.0, 1.0]).double()
    value = now + later
    per_step, best = draw_by(HALF, now), draw_by(HALF, value)
    assert now[0] > now[1]
    assert value[0] < value[1]
    # Behind a place without novelty there is none: the assumption holds.
    assert not later[now == 0].any()
    gains = [gain(policy, HALF, value) for policy in (best, per_step, HALF)]
    assert gains[0] == pytest.approx(soft_value(HALF, value).item())
    assert gains[0] > gains[2] > gains[1]
    stands(f"{per_step[1]:.3f}", f"{best[1]:.3f}", *(f"{each:.3f}" for each in gains))


def test_the_same_with_log_ratios():
    first, after_b = torch.tensor([0.4, 0.6]).double(), torch.tensor([0.9, 0.1]).double()
    now, then = (HALF / first).log(), (HALF / after_b).log()
    value = now + torch.stack([torch.tensor(0.0).double(), soft_value(HALF, then)])
    best, per_step = draw_by(HALF, value), draw_by(HALF, now)
    gains = [gain(policy, HALF, value) for policy in (per_step, HALF, best)]
    assert gains == sorted(gains)
    shown = [*now, soft_value(HALF, then), *value, *gains]
    stands(*(f"{float(each):.3f}" for each in shown))


def test_the_per_step_rule_is_the_best_where_what_follows_is_the_same():
    pi, now = normal(VOCAB).softmax(0), normal(VOCAB, seed=1)
    torch.testing.assert_close(draw_by(pi, now), draw_by(pi, now + 3.0))
    later = soft_value(HALF, (HALF / torch.tensor([0.7, 0.3]).double()).log())
    assert later > 0, "what follows is worth something wherever q is not the model's distribution"
    assert soft_value(HALF, torch.zeros(2).double()).item() == pytest.approx(0)

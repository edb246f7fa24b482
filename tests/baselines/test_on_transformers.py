"""The methods on a real model, through `esamp.generate`, against dense computations."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch

pytest.importorskip("transformers")

from backends.transformers.calls import ENDS, LONG, SHORT, drawn, sample
from backends.transformers.replay import teacher_forced
from esamp import ESamp, MLPDistiller, ModelError, Vanilla
from esamp.backends.transformers.states import find_head
from esamp.baselines import (
    ContrastiveDecoding,
    Fire,
    FrequencyPenalty,
    Moderated,
    OverRIDE,
    Sharpening,
    Subtraction,
    VocabularySpace,
)
from tiny import batch, tiny

STEPS = 8
TEMPERATURE = 0.7
FAMILIES = ["llama", "gemma2", "granite", "cohere", "gpt_neox"]
"""Two scales and a cap behind the head, a bias of the final norm, and plain ones."""


def replay(model, output, prompts, samples):
    """All hidden states and logits of each decode step, from one pass over the final texts."""
    mask = batch(*prompts)["attention_mask"].repeat_interleave(samples, dim=0)
    start = output.sequences.shape[1] - STEPS
    mask = torch.cat([mask, torch.ones(len(mask), STEPS, dtype=mask.dtype)], dim=1)
    with torch.no_grad():
        shown = model(
            input_ids=output.sequences,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
            output_hidden_states=True,
        )
    here = slice(start - 1, start - 1 + STEPS)
    return [states[:, here] for states in shown.hidden_states], shown.logits[:, here]


def assert_drawn_from(output, scores):
    """The reported scores and log-probabilities are those computed from scratch."""
    seen = torch.stack(output.scores, dim=1)
    assert torch.equal(seen.isfinite(), scores.isfinite())
    kept = scores.isfinite()
    torch.testing.assert_close(seen[kept], scores[kept], atol=2e-3, rtol=1e-3)
    tokens = output.sequences[:, -STEPS:]
    logprobs = scores.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(output.logprobs, logprobs, atol=2e-3, rtol=1e-3)


def run(model, method, **options):
    options = {"temperature": TEMPERATURE, "output_scores": True} | options
    return sample(model, SHORT, LONG, method=method, samples=3, tokens=STEPS, **options)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_contrastive_decoding_by_early_exit(family, layer):
    model = tiny(family)
    method = ContrastiveDecoding(amateur=f"layers:{layer}", alpha=0.05)
    output = run(model, method)
    states, expert = replay(model, output, (SHORT, LONG), 3)
    # The model itself without its later blocks.
    decoder = model.get_decoder()
    blocks = next(each for each in decoder.children() if isinstance(each, torch.nn.ModuleList))
    name = next(name for name, each in decoder.named_children() if each is blocks)
    setattr(decoder, name, blocks[:layer])
    model.config.num_hidden_layers = layer
    _, amateur = replay(model, output, (SHORT, LONG), 3)
    assert not torch.allclose(expert, amateur, atol=0.1)
    odds = expert.softmax(dim=-1)
    plausible = odds >= 0.05 * odds.amax(dim=-1, keepdim=True)
    scores = (1.5 * expert - 0.5 * amateur).where(plausible, -torch.inf)
    assert_drawn_from(output, scores / TEMPERATURE)
    assert states[0].shape == (6, STEPS, 32)


def test_fire_draws_the_first_token_at_its_own_temperature():
    model = tiny("llama")
    output = run(model, Fire())
    _, logits = replay(model, output, (SHORT, LONG), 3)
    scores = logits / TEMPERATURE
    first = logits[:, 0]
    kept = first >= first.topk(16).values[:, -1:]
    scores[:, 0] = torch.where(kept, first / 30, -torch.inf)
    assert_drawn_from(output, scores)


def test_fire_leaves_the_rest_to_the_method_within_also_where_esamp_fuses_survivors():
    model, within = tiny("llama"), ESamp(beta=0.6)
    output = run(model, Fire(within=within), top_p=0.8)
    kept = torch.stack(output.scores, dim=1).isfinite().sum(dim=-1)
    # 0.8 of sixteen tokens that are nearly equally likely.
    assert ((kept[:, 0] >= 12) & (kept[:, 0] <= 15)).all()
    assert output.novelty[:, 1:].isfinite().all()
    _, logits = replay(model, output, (SHORT, LONG), 3)
    seen = torch.stack(output.scores, dim=1)[:, 1:]
    plain = logits[:, 1:] / TEMPERATURE
    gap = (seen - plain)[seen.isfinite()]
    assert gap.abs().max() > 0.05, "ESamp moves the rest"


def test_sharpening_is_a_lower_temperature():
    model = tiny("llama")
    output = run(model, Sharpening(beta=0.5))
    _, logits = replay(model, output, (SHORT, LONG), 3)
    scores = logits / TEMPERATURE
    scores[:, 1:] *= 1.5
    assert_drawn_from(output, scores)


STRONG = ESamp(beta=2.0)
OPTIONS = {
    "no truncation": {},
    "truncation": {"top_p": 0.9},
    "processor": {"no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_is_drawn_beyond_the_budget(family, options):
    """Under the distributions that were drawn from, whatever is done to them on the way."""
    model, options = tiny(family), {"diagnostics": True, "tokens": 16} | options
    free = sample(model, SHORT, LONG, method=STRONG, **options).kl[:, 1:]
    budget = float(free.median())
    method = Moderated(esamp=STRONG, budget=budget)
    spent = sample(model, SHORT, LONG, method=method, **options).kl[:, 1:]
    assert (spent <= budget * 1.001 + 1e-5).all()
    assert 0.1 < ((spent - budget).abs() < 0.015 * budget).float().mean() < 0.9


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_budget_that_is_never_reached_leaves_esamp_and_beta_zero_plain(options):
    model, method = tiny("llama"), Moderated(esamp=STRONG, budget=1e3)
    free, same = (run(model, each, **options) for each in (STRONG, method))
    assert torch.equal(same.sequences, free.sequences)
    assert torch.equal(torch.stack(same.scores), torch.stack(free.scores))
    tight = dataclasses.replace(method, budget=1e-3, gate=1.0)
    plain = run(model, Vanilla(), **options)
    half = run(model, tight, esamp_beta=[0.0, 2.0], **options)
    assert torch.equal(half.sequences[:3], plain.sequences[:3])
    assert not torch.equal(torch.stack(half.scores)[:, 3:], torch.stack(plain.scores)[:, 3:])


def test_the_gate_and_the_budget_work_in_the_fused_reading_too():
    """There the budget is kept before truncation."""
    model, fused = tiny("llama"), dataclasses.replace(STRONG, truncation="fused")
    method = Moderated(esamp=fused, budget=0.01)
    output = run(model, method, top_k=20)
    _, logits = replay(model, output, (SHORT, LONG), 3)
    scores = torch.stack(output.scores, dim=1)
    assert (scores.isfinite().sum(dim=-1) == 20).all()
    # The change of survivors' log-odds is bounded as that of all tokens is.
    gap = (scores - logits / TEMPERATURE).where(scores.isfinite(), torch.nan)
    spread = (gap - gap.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()
    assert (spread[:, 0] < 1e-4).all()
    assert ((spread[:, 1:] > 0.03) & (spread[:, 1:] < 0.4)).all()


def test_subtraction_starts_from_the_reference():
    model = tiny("llama")
    output = run(model, Subtraction(esamp=ESamp(beta=0.5)))
    _, logits = replay(model, output, (SHORT, LONG), 3)
    # Nothing has been learnt in the first two steps, so nothing is subtracted.
    seen = torch.stack(output.scores, dim=1)
    torch.testing.assert_close(seen[:, :2], logits[:, :2] / TEMPERATURE, atol=2e-3, rtol=1e-3)
    assert (seen[:, 2:] - logits[:, 2:] / TEMPERATURE).abs().max() > 0.1


def test_the_frequency_penalty_counts_the_groups_tokens():
    model = tiny("llama")
    output = run(model, FrequencyPenalty(weight=2.0))
    _, logits = replay(model, output, (SHORT, LONG), 3)
    tokens = output.sequences[:, -STEPS:]
    counts = torch.zeros(2, STEPS, logits.shape[-1])
    for step in range(1, STEPS):
        for group in (0, 1):
            before = tokens[3 * group : 3 * group + 3, :step].flatten()
            counts[group, step] = before.bincount(minlength=logits.shape[-1])
    penalty = 2.0 * counts.log1p().repeat_interleave(3, dim=0)
    assert_drawn_from(output, (logits - penalty) / TEMPERATURE)


def test_override_reweights_with_heads_that_learn_in_the_model_loop():
    """The same steps, taken from the model's states and logits and given to autograd and Adam."""
    model = tiny("llama")
    output = run(model, OverRIDE(rank=4, learning_rate=0.05), seed=11)
    _, logits = replay(model, output, (SHORT, LONG), 3)
    mask = batch(SHORT, LONG)["attention_mask"].repeat_interleave(3, dim=0)
    _, deep = teacher_forced(model, output.sequences, mask, steps=STEPS)
    tokens = output.sequences[:, -STEPS:]
    down = 0.02 * torch.randn(32, 40, generator=torch.Generator().manual_seed(11))
    down = [each.clone().requires_grad_() for each in down.split(4, dim=1)]
    up = [torch.zeros(4, logits.shape[-1], requires_grad=True) for _ in range(10)]
    adam, scores = torch.optim.Adam([*down, *up], lr=0.05), logits.clone()
    for step in range(STEPS):
        losses = []
        for row in range(6):
            number = row % 3
            if number > 0:
                residual = deep[row, step] @ down[number - 1] @ up[number - 1]
                scores[row, step] -= 0.8 * residual.detach()
            guide = logits[row, step] + deep[row, step] @ down[number] @ up[number]
            losses.append(torch.nn.functional.cross_entropy(guide, tokens[row, step]))
        adam.zero_grad()
        torch.stack(losses).mean().backward()
        adam.step()
    assert (scores - logits).abs().max() > 0.5
    assert_drawn_from(output, scores / TEMPERATURE)


@dataclass(frozen=True, kw_only=True)
class Watched(VocabularySpace):
    """Keeps the divergence of the distilled from the model's own logits before each step."""

    divergences: list[float] = field(default_factory=list, compare=False)

    def start(self, call):
        explorer, divergences = super().start(call), self.divergences
        learn = explorer.learn

        def watch(step, tokens):
            predicted = explorer.bank.predict(step.shallow, step.layout)
            reference, distilled = (
                call.head(each).log_softmax(dim=-1) for each in (step.deep, predicted)
            )
            kl = torch.nn.functional.kl_div(distilled, reference, log_target=True, reduction="sum")
            divergences.append(kl.item() / len(predicted))
            learn(step, tokens)

        explorer.learn = watch
        return explorer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vocabulary_distiller_learns_the_models_logits(family):
    network = MLPDistiller(width=32, learning_rate=0.02, clip=100.0)
    method = Watched(esamp=ESamp(beta=0.1, distiller=network))
    output = sample(tiny(family), SHORT, method=method, samples=16, tokens=80)
    assert output.novelty[:, 1:].isfinite().all()
    early, late = sum(method.divergences[1:5]) / 4, sum(method.divergences[-20:]) / 20
    assert late < 0.8 * early


def test_no_method_leaves_gradients_or_hooks_on_the_model():
    model = tiny("llama")
    head = find_head(model)
    before = (len(head._forward_hooks), len(head._forward_pre_hooks))
    run(model, VocabularySpace())
    assert (len(head._forward_hooks), len(head._forward_pre_hooks)) == before
    assert all(parameter.grad is None for parameter in model.parameters())


METHODS = {
    "contrastive": ContrastiveDecoding(amateur="layers:2"),
    "fire-override": Fire(within=OverRIDE(rank=4, learning_rate=0.05)),
    "fire-esamp": Fire(within=ESamp()),
    "frequency": FrequencyPenalty(),
    "moderated": Moderated(esamp=STRONG, budget=0.1, gate=1.0, reach=1.5, warm_up=3),
    "sharpening": Sharpening(),
    "subtraction": Subtraction(),
    "vocabulary": VocabularySpace(),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_letting_finished_rows_leave_changes_nothing(method):
    import esamp

    model = tiny("llama")
    model.generation_config.eos_token_id = ENDS
    options = {"samples": 8, "tokens": 20, "top_p": 0.95}
    dropped = sample(model, SHORT, LONG, method=method, **options)
    decoding = esamp.Decoding(method=method, drop_finished=False)
    kept = model.generate(
        **batch(SHORT, LONG),
        custom_generate=decoding,
        esamp_seed=7,
        do_sample=True,
        top_k=0,
        top_p=0.95,
        num_return_sequences=8,
        max_new_tokens=20,
        return_dict_in_generate=True,
    )
    assert len(set(dropped.lengths.tolist())) > 3
    assert drawn(dropped) == drawn(kept)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_greedy_rows_are_plain_and_diagnostics_are_there(method):
    model = tiny("llama")
    greedy = {"do_sample": False, "num_return_sequences": 1}
    plain = sample(model, SHORT, method=Vanilla(), **greedy)
    if isinstance(method, ContrastiveDecoding | FrequencyPenalty | Fire | Sharpening):
        assert torch.equal(sample(model, SHORT, method=method, **greedy).sequences, plain.sequences)
    output = sample(model, SHORT, method=method, diagnostics=True, top_p=0.95)
    for table in (output.kl, output.entropy, output.reference_entropy):
        assert not table.isnan().any()
    assert output.kl.max() > 0.001


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(ModelError, match="layer is 10, and LlamaForCausalLM has 3 blocks"):
        sample(tiny("llama"), SHORT, method=ContrastiveDecoding())

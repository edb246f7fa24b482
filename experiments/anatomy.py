"""What ESamp's push is made of, and what it does to the next token: no decoding, no sampling noise.

    python experiments/distillers.py record --out runs/distillers
    python experiments/anatomy.py --states runs/distillers

Distillers learn from recorded states of plain sampling, as experiments/distillers.py replays them,
and each row's residual is taken apart before it is learnt: in hidden space into what lies along
deep, along the group's mean, and the rest (`esamp.baselines.part`), and behind the head into what a
temperature would do and what it would not. Nothing that is steered is drawn here: what the parts do
to texts is asked by experiments/small/anatomy.yaml. Tables go to experiments/anatomy/.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distillers_report import per_prompt, rounded, show, table
from distillers_states import SOURCES, Recording
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp import MeanDistiller, MLPDistiller, RecursiveDistiller
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.baselines.part import split
from esamp.baselines.strength import entropy
from esamp.distiller import Distiller
from esamp.evals.statistics import interval
from esamp.layout import Layout

TABLES = Path(__file__).with_suffix("")
BETA = 0.5
DISTILLERS: Mapping[str, Distiller] = {
    "mean": MeanDistiller(),
    "recursive": RecursiveDistiller(),
    "paper's MLP": MLPDistiller(),
}
ENTROPIES = {"below 0.5": (0.0, 0.5), "0.5 to 2": (0.5, 2.0), "2 and above": (2.0, float("inf"))}
"""Of the reference, in nats."""
TABLE_OF = {
    "Where the residual points: shares of its squared length": (
        "‖residual‖²/‖deep‖²", "deep", "mean", "rest",
    ),
    f"What β {BETA} does: KL(fused‖reference) in nats, of the whole push and of each part alone": (
        "KL", "KL deep", "KL mean", "KL rest",
    ),
    "Which share is sharpening": (
        "R² of temperature", "inverse temperature", "entropy", "entropy fused",
        "entropy at that temperature",
    ),
    "Mass that moves (total variation), by entropy of the reference": (
        "moved", *(f"moved, {name}" for name in ENTROPIES),
    ),
    "Where mass goes, in hundredths of all mass": (
        "likeliest token", "ranks 2 to 10", "other ranks",
        "drawn before in this sample", "drawn before by siblings only", "new to the group",
    ),
    "Where mass goes, by kind of token": ("word begins", "word goes on", "punctuation", "control"),
}  # fmt: skip


def kinds_of(pieces: list[str], special: set[str]) -> Float[Tensor, "vocab kinds"]:
    """Return one-hot kinds of tokens: word begins, word goes on, punctuation, control."""
    kinds = torch.zeros(len(pieces), 4)
    for token, piece in enumerate(pieces):
        text = piece.lstrip("Ġ▁")
        if piece in special or not text or not text.strip("ĊĉčĠ"):
            kinds[token, 3] = 1
        elif not any(letter.isalnum() for letter in text):
            kinds[token, 2] = 1
        else:
            kinds[token, int(text == piece)] = 1
    return kinds


def tokens_of(
    states: Float[Tensor, "groups steps rows hidden"], embeddings: Float[Tensor, "vocab hidden"]
) -> Int[Tensor, "groups steps rows"]:
    """Return the tokens that were read, by their embeddings, which were kept in half precision."""
    half = embeddings.half().float()
    length = half.square().sum(dim=-1)
    # One step at a time: distances to a whole vocabulary are wide.
    nearest = [(step @ half.T * 2 - length).argmax(dim=-1) for step in states.unbind(dim=1)]
    return torch.stack(nearest, dim=1)


def sharpening(
    logprobs: Float[Tensor, "rows vocab"], change: Float[Tensor, "rows vocab"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Regress the change of logits on the logits, weighted by the reference's probabilities.

    Returns:
        The slope: a change by slope·logits is a temperature of 1/(1+slope); and R², the share of
        the change's variance that a temperature makes.
    """
    weights = logprobs.exp()
    around = [each - (weights * each).sum(-1, keepdim=True) for each in (logprobs, change)]
    covariance = (weights * around[0] * around[1]).sum(-1)
    spread = [(weights * each.square()).sum(-1) for each in around]
    return covariance / spread[0], covariance.square() / (spread[0] * spread[1])


def mean_over(
    values: Float[Tensor, "groups rows"], mask: Bool[Tensor, "groups rows"]
) -> Float[Tensor, " groups"]:
    """Return the mean of a group's masked rows; NaN where there is none."""
    return torch.where(mask, values, 0.0).sum(dim=1) / mask.sum(dim=1)


class Drawn:
    """Which tokens each sample, and each group, has drawn so far."""

    def __init__(self, groups: int, rows: int, vocab: int) -> None:
        self.own = torch.zeros(groups, rows, vocab, dtype=torch.bool)

    def add(self, tokens: Int[Tensor, "groups rows"], taught: Bool[Tensor, "groups rows"]) -> None:
        """Note the tokens of rows that are still being sampled."""
        at = tokens[..., None]
        self.own.scatter_(2, at, self.own.gather(2, at) | taught[..., None])

    def parts(self) -> tuple[Bool[Tensor, "groups rows vocab"], Bool[Tensor, "groups rows vocab"]]:
        """Return for each row the tokens of its own sample, and those of its siblings only."""
        return self.own, self.own.any(dim=1, keepdim=True) & ~self.own


def dissect(
    distiller: Distiller,
    states: Recording,
    head: Float[Tensor, "vocab hidden"],
    tokens: Int[Tensor, "groups steps rows"],
    kinds: Float[Tensor, "vocab kinds"],
) -> dict[str, Float[Tensor, "groups steps"]]:
    """Return measures of each group and step, as means over the rows that are steered."""
    groups, steps, rows, hidden = states.states["deep"].shape
    layout = Layout.of([group for group in range(groups) for _ in range(rows)], groups)
    bank, mean = (each.open(groups, hidden, "cpu") for each in (distiller, MeanDistiller()))
    drawn, found = Drawn(groups, rows, len(head)), []
    for step in range(steps):
        shallow, deep = (states.states[kind][:, step].flatten(0, 1) for kind in ("first", "deep"))
        here = states.taught[:, step]
        drawn.add(tokens[:, step], here)
        residual = deep - bank.predict(shallow, layout)
        parts = split(residual, deep, mean.predict(shallow, layout))
        values = judge(deep, residual, parts, head, drawn, kinds)
        grouped = {name: each.view(groups, rows) for name, each in values.items()}
        by_step = {name: mean_over(each, here) for name, each in grouped.items()}
        for name, (low, high) in ENTROPIES.items():
            there = here & (grouped["entropy"] >= low) & (grouped["entropy"] < high)
            by_step[f"moved, {name}"] = mean_over(grouped["moved"], there)
        found.append(by_step)
        for each in (bank, mean):
            each.learn(shallow, deep, here.flatten(), layout)
    return {name: torch.stack([each[name] for each in found], dim=1) for name in found[0]}


def judge(
    deep: Float[Tensor, "rows hidden"],
    residual: Float[Tensor, "rows hidden"],
    parts: Mapping[str, Float[Tensor, "rows hidden"]],
    head: Float[Tensor, "vocab hidden"],
    drawn: Drawn,
    kinds: Float[Tensor, "vocab kinds"],
) -> dict[str, Float[Tensor, " rows"]]:
    """Return measures of each row."""
    whole = residual.square().sum(-1)
    found = {"‖residual‖²/‖deep‖²": whole / deep.square().sum(-1)}
    found |= {name: part.square().sum(-1) / whole for name, part in parts.items()}
    logits = deep @ head.T
    plain = logits.log_softmax(-1)
    found["entropy"] = entropy(plain)
    for name, push in {"": residual, **{f" {name}": part for name, part in parts.items()}}.items():
        change = push @ head.T
        fused = (logits + BETA * change).log_softmax(-1)
        found[f"KL{name}"] = (fused.exp() * (fused - plain)).sum(-1)
        if name == "":
            slope, found["R² of temperature"] = sharpening(plain, change)
            found["inverse temperature"] = 1 + BETA * slope
            colder = (plain * found["inverse temperature"][:, None]).log_softmax(-1)
            found["entropy at that temperature"] = entropy(colder)
            found["entropy fused"] = entropy(fused)
            found |= movement(plain.exp(), fused.exp(), drawn, kinds)
    return found


def movement(
    plain: Float[Tensor, "rows vocab"],
    fused: Float[Tensor, "rows vocab"],
    drawn: Drawn,
    kinds: Float[Tensor, "vocab kinds"],
) -> dict[str, Float[Tensor, " rows"]]:
    """Return how much mass moves, and in hundredths, how much comes to tokens of each class."""
    gain = fused - plain
    found = {"moved": gain.abs().sum(-1) / 2}
    ranked = gain.gather(1, plain.topk(10, dim=-1).indices)
    own, siblings = ((gain * each.flatten(0, 1)).sum(-1) for each in drawn.parts())
    by_kind = (gain @ kinds).unbind(dim=-1)
    gains = {
        "likeliest token": ranked[:, 0],
        "ranks 2 to 10": ranked[:, 1:].sum(-1),
        "other ranks": -ranked.sum(-1),
        "drawn before in this sample": own,
        "drawn before by siblings only": siblings,
        "new to the group": -own - siblings,
    }
    names = ("word begins", "word goes on", "punctuation", "control")
    gains |= dict(zip(names, by_kind, strict=True))
    return found | {name: 100 * each for name, each in gains.items()}


def summarise(measures: Mapping[str, Float[Tensor, "groups steps"]]) -> dict[str, Any]:
    """Return each measure's mean over prompts with its interval; the first step is left out.

    In the first step nothing has been learnt, and the residual is deep itself.
    """
    later = {name: np.asarray(values[:, 1:], dtype=float) for name, values in measures.items()}
    prompts = len(next(iter(later.values())))
    return rounded(
        {name: interval(per_prompt(each).ratio, prompts).to_json() for name, each in later.items()}
    )


def write_tables(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write tables.md and results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    parts = ["# What the push is made of\n\nBrackets: 95 % by bootstrap over prompts.\n"]
    for title, columns in TABLE_OF.items():
        rows = [[name, *(show(each[key]) for key in columns)] for name, each in results.items()]
        parts.append(table(title, ["", *columns], rows))
    (folder / "tables.md").write_text("\n".join(parts))


def main() -> None:
    """Dissect every distiller on both kinds of prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=Path, required=True)
    options = parser.parse_args()
    generator = TransformersGenerator.load()
    tokenizer, model = generator.tokenizer, generator.model
    head = model.lm_head.weight.detach().float()
    embeddings = model.get_input_embeddings().weight.detach().float()
    pieces = tokenizer.convert_ids_to_tokens(range(len(head)))
    kinds = kinds_of([piece or "" for piece in pieces], set(tokenizer.all_special_tokens))
    results = {}
    for source in SOURCES:
        states = Recording.load(options.states, source)
        tokens = tokens_of(states.states["embedding"], embeddings)
        for name, distiller in DISTILLERS.items():
            with torch.inference_mode():
                measures = dissect(distiller, states, head, tokens, kinds)
            results[f"{source}, {name}"] = summarise(measures)
            print(source, name, results[f"{source}, {name}"]["KL"], flush=True)
    write_tables(results, TABLES)


if __name__ == "__main__":
    main()

"""Control: each sample has a random steering vector of its own, and nothing is learnt.

    the head reads deep + β·‖deep‖·v⊥        v⊥ = v − its projection on deep

v is a random unit vector, drawn when a sample starts and kept to its end, or drawn anew every
`lasting` tokens. Without the part along deep, which would be a temperature, the push is a random
change of taste: a bias on the vocabulary that is alike for tokens of alike head rows. If samples
that are pushed apart blindly are as diverse as ESamp's, what a distiller knows is not what counts.

As in ESamp, first tokens are plain, and truncation judges the reference unless told otherwise. A
sample's vectors depend on the seed, its prompt and its number among that prompt's samples.
Source: ours.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_choice, check_count
from esamp.explorer import check_beta
from esamp.fusion import across, push_states
from esamp.method import Call, Push, Scope, Steering, Step, Truncation
from esamp.sampling import row_key


@dataclass(frozen=True, kw_only=True)
class RandomSteering:
    """Plain sampling, each sample with a random steering vector.

    Example:
        `RandomSteering(beta=0.3)`, at a temperature of 0.8.
    """

    beta: float = 0.3
    """Length of the push as a share of deep's, before its part along deep is taken off."""
    lasting: int = 0
    """Tokens after which a sample's vector is drawn anew; 0: never, 1: noise."""
    truncation: Truncation = "reference"
    """Which logits top-k, top-p and min-p judge."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_count("lasting", self.lasting, 0)
        check_choice("truncation", self.truncation, Truncation)

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "random-steering"

    @property
    def scope(self) -> Scope:
        """Nothing is shared."""
        return "prompt"

    @property
    def layer(self) -> int:
        """Shallow states are not looked at."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """It works on states and reweights no logits."""
        return False

    @property
    def inert(self) -> bool:
        """Whether nothing is steered unless a request asks for its own β."""
        return self.beta == 0

    def start(self, call: Call) -> "RandomSteerer":
        """Return the vectors of a call's samples."""
        return RandomSteerer(self, call)


class RandomSteerer(Steering):
    """The vectors that the samples of a call have at the time."""

    def __init__(self, settings: RandomSteering, call: Call) -> None:
        self._settings = settings
        self._beta = torch.tensor(settings.beta, device=call.device)
        self._generators = private_generators(call)
        self._vectors = torch.empty(len(call.prompts), call.hidden, device=call.device)
        self._age = 0
        self._draw()

    def steer(self, step: Step) -> Push:
        """Push unfinished rows after their first token along their vectors.

        Rows whose state would not be finite are left alone.
        """
        vectors = self._vectors[step.samples]
        push = step.deep.norm(dim=-1, keepdim=True) * across(vectors, step.deep)
        beta = self._beta if step.beta is None else step.beta
        pushed = push_states(step.deep, push, beta)
        usable = step.unfinished & (step.positions > 0) & pushed.norm(dim=-1).isfinite()
        return Push(torch.where((usable & (beta > 0))[:, None], pushed, step.deep), None)

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Learn nothing; draw new vectors when it is time to."""
        self._age += 1
        if self._settings.lasting and self._age % self._settings.lasting == 0:
            self._draw()

    def _draw(self) -> None:
        drawn: Float[Tensor, "samples hidden"] = torch.stack(
            [torch.randn(self._vectors.shape[-1], generator=each) for each in self._generators]
        )
        self._vectors.copy_(torch.nn.functional.normalize(drawn, dim=-1))


def private_generators(call: Call) -> list[torch.Generator]:
    """Return a generator for each sample: the same whatever else is in the call, and everywhere."""
    seen: Counter[tuple[int, ...]] = Counter()
    generators = []
    for prompt in map(tuple, call.prompts):
        # Negative, since a row's own stream of numbers has the keys from 0 on.
        key = row_key(call.seed, prompt, -1 - seen[prompt])
        generators.append(torch.Generator().manual_seed(key))
        seen[prompt] += 1
    return generators

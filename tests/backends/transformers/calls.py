"""Short ways to call the backend, and a method that only watches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

import esamp
from esamp import ESamp, RecursiveDistiller, Vanilla
from esamp.backends.transformers import Decoding, ESampOutput
from esamp.method import Call, Method, Push, Steering, Step
from tiny import batch

FAST = RecursiveDistiller(features=16, ridge=1.0)
STRONG = ESamp(beta=0.7, distiller=FAST)
SHORT, LONG = [11, 12, 13], [21, 22, 23, 24, 25, 26]
ENDS = list(range(2, 12))
"""So many end tokens that rows end at different times."""


def sample(
    model: PreTrainedModel,
    *prompts: Sequence[int],
    method: Method = STRONG,
    samples: int = 4,
    tokens: int = 10,
    seed: int | None = 7,
    **kwargs: Any,
) -> ESampOutput:
    """`esamp.generate` on prompts of token ids, without truncation unless asked for."""
    options = {"top_k": 0, "num_return_sequences": samples, "max_new_tokens": tokens, "seed": seed}
    return esamp.generate(model, **batch(*prompts), method=method, **(options | kwargs))


def decode(
    decoding: Decoding,
    model: PreTrainedModel,
    *prompts: Sequence[int],
    samples: int = 4,
    tokens: int = 10,
    **kwargs: Any,
) -> ESampOutput:
    """The same call as `sample`, with all that a `Decoding` can be told."""
    return model.generate(
        **batch(*prompts),
        custom_generate=decoding,
        esamp_seed=7,
        do_sample=True,
        return_dict_in_generate=True,
        **{"top_k": 0, "num_return_sequences": samples, "max_new_tokens": tokens} | kwargs,
    )


KEEPING = Decoding(method=STRONG, drop_finished=False)


def drawn(output: ESampOutput) -> list[list[int]]:
    """Return the tokens that each row drew."""
    new = output.sequences[:, -output.logprobs.shape[1] :].tolist()
    return [row[:length] for row, length in zip(new, output.lengths.tolist(), strict=True)]


@dataclass(frozen=True, kw_only=True)
class Watching(Vanilla):
    """Plain sampling that keeps what it is shown."""

    steps: list[Step] = field(default_factory=list)

    def start(self, call: Call) -> Steering:
        steps = self.steps

        class Watcher(Steering):
            def steer(self, step: Step) -> Push | None:
                steps.append(step)
                return None

        return Watcher()


def batch_sizes(model: PreTrainedModel) -> list[int]:
    """Return a list that fills with the batch size of each forward pass."""
    sizes: list[int] = []

    def note(_module: Any, args: tuple[Tensor, ...]) -> None:
        sizes.append(len(args[0]))

    model.get_output_embeddings().register_forward_pre_hook(note)
    return sizes

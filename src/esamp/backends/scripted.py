"""A generator that replays given texts: the fake for tests of everything above the engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from esamp.errors import UsageError
from esamp.generation import Completion, Generation, Progress, Request, Stats
from esamp.method import Method


@dataclass(frozen=True, kw_only=True)
class ScriptedGenerator:
    """Replays texts, in order, as the samples of each prompt.

    A token is a word, its id the word's place among all of the script, its log-probability −1.

    Example:
        `ScriptedGenerator(texts={"Say hello.": ["Hello!", "Hi there."]})`
    """

    texts: Mapping[str, Sequence[str]]
    """From prompt to the texts of its samples."""

    def generate(
        self, request: Request, method: Method, progress: Progress | None = None
    ) -> Generation:
        """Return the script's texts.

        Raises:
            UsageError: The script has no such prompt, or too few texts for it.
        """
        completions = []
        for prompt in request.prompts:
            texts = self.texts.get(prompt, [])
            if len(texts) < request.samples:
                raise UsageError(
                    f"the script has {len(texts)} texts for prompt {prompt!r} and "
                    f"{request.samples} are asked for: add some"
                )
            completions.append([self._complete(text) for text in texts[: request.samples]])
        tokens = sum(len(each.token_ids) for group in completions for each in group)
        stats = Stats(tokens=tokens, seconds=1.0, distiller_error=[], nonfinite_rows=0)
        if progress is not None:
            progress(1.0)
        return Generation(completions=completions, stats=stats)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return each word, but the first with a space before it."""
        words = list(self._places)
        return [f"{' ' if place else ''}{words[token]}" for place, token in enumerate(token_ids)]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Return each word's token id, words in order."""
        texts = [text for group in self.texts.values() for text in group]
        words = sorted({word for text in texts for word in text.split()})
        return {word: place for place, word in enumerate(words)}

    def _complete(self, text: str) -> Completion:
        ids = [self._places[word] for word in text.split()]
        return Completion(
            text=text, token_ids=ids, finish_reason="stop", logprobs=[-1.0] * len(ids)
        )

"""Between text and tokens: what every backend does alike, so that two backends see one prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from esamp.errors import UsageError

ChatTemplate = Literal["auto", "none"]
"""Whether prompts go through the model's chat template, if it has one."""


def prompt_texts(
    tokenizer: Any,
    prompts: Sequence[str],
    chat_template: ChatTemplate,
    kwargs: Mapping[str, Any],
) -> tuple[list[str], bool]:
    """Return the texts to encode, and whether the tokenizer is to add its special tokens.

    Args:
        tokenizer: Of the model.
        prompts: What the user says.
        chat_template: Whether it goes through the template.
        kwargs: What the template is told, such as `enable_thinking`.
    """
    if chat_template == "none" or tokenizer.chat_template is None:
        return list(prompts), True
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            **kwargs,
        )
        for text in prompts
    ]
    # A chat template writes its own special tokens.
    return texts, False


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds, for showing tokens one by one."""
    # A token's text depends on its neighbour: some tokenizers drop a text's first space.
    pairs = [list(token_ids[max(place - 1, 0) : place + 1]) for place in range(len(token_ids))]
    both = tokenizer.batch_decode(pairs, skip_special_tokens=True)
    alone = tokenizer.batch_decode([pair[:-1] for pair in pairs], skip_special_tokens=True)
    return [text[len(before) :] for text, before in zip(both, alone, strict=True)]


def check_room(longest: int, room: int, context: int | None) -> None:
    """Raise UsageError if a prompt does not fit into the model's context with what is to come."""
    if context is not None and longest + room > context:
        raise UsageError(
            f"the longest prompt has {longest} tokens and {room} more are asked for, but the "
            f"model's context is {context}: shorten the prompt or lower --max-new-tokens"
        )

"""Between text and tokens: what every backend does alike, so that two backends see one prompt."""

import functools
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


UNFINISHED = "\ufffd"
"""What stands for bytes that are no character, such as the first of several."""


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds, for showing tokens one by one."""
    decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
    found: list[str] = []
    begin = 0  # of the tokens whose text is not told yet
    for end in range(1, len(token_ids) + 1):
        # A token's text depends on its neighbour: some tokenizers drop a text's first space.
        neighbour = max(begin - 1, 0)
        before = decode(list(token_ids[neighbour:begin])) if begin else ""
        piece = decode(list(token_ids[neighbour:end]))[len(before) :]
        if piece.endswith(UNFINISHED) and end < len(token_ids):
            found.append("")  # a part of a character, which comes with the last part
            continue
        found.append(piece)
        begin = end
    return found


def check_room(longest: int, room: int, context: int | None) -> None:
    """Raise UsageError if a prompt does not fit into the model's context with what is to come."""
    if context is not None and longest + room > context:
        raise UsageError(
            f"the longest prompt has {longest} tokens and {room} more are asked for, but the "
            f"model's context is {context}: shorten the prompt or lower --max-new-tokens"
        )

"""Finds the final answer in what a model wrote. Nothing here raises, whatever the text."""

import re
from fractions import Fraction

DIGITS = 40
"""A number with more digits than this is no answer."""
NUMBER = re.compile(
    r"(?<![\w.])[-−]?\s?\$?\s?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?([0-9]+))?"
)
BRACE = re.compile(r"\\boxed\{|\\?[{}]")
CUE = re.compile(r"(?:####|answer\b\**(?:\s+is\b)?)[:\s*]*", re.IGNORECASE)
LABEL = re.compile(r"answer\**\s*:\**[ \t]*(.*)", re.IGNORECASE)
FENCE = re.compile(
    r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
)


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last \boxed{…}; None where none is closed."""
    found: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # where the content of a box begins, None for other braces
    for brace in BRACE.finditer(text):
        if brace[0] == "}":
            begin = open_braces.pop() if open_braces else None
            if begin is not None and (found is None or begin > found[0]):
                found = (begin, brace.start())
        elif brace[0][0] != "\\" or len(brace[0]) > 2:  # \{ and \} are no braces
            open_braces.append(None if brace[0] == "{" else brace.end())
    return None if found is None else text[found[0] : found[1]].strip()


def last_answer_line(text: str) -> str | None:
    """Return what follows the last `Answer:`, up to the end of its line; None where none does."""
    found = [match[1].strip().strip("*`").strip() for match in LABEL.finditer(text)]
    found = [answer for answer in found if answer]
    return found[-1] if found else None


def last_number(text: str) -> Fraction | None:
    """Return the number that a text ends in: the one its final answer names, else the last."""
    boxed = last_boxed(text)
    cues = list(CUE.finditer(text))
    for part in (boxed, *(_after(text, cue) for cue in cues[:-4:-1])):
        number = _first_number(part) if part is not None else None
        if number is not None:
            return number
    numbers = list(NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def as_number(text: str) -> Fraction | None:
    """Return the number that a text is, whole, up to blanks and a currency sign; None for none."""
    match = NUMBER.fullmatch(text.strip())
    return None if match is None else _value(match)


def _after(text: str, cue: re.Match[str]) -> str:
    """Return the rest of a cue's line, behind the last = where it is a computation."""
    line = text[cue.end() :].partition("\n")[0]
    return line.rpartition("=")[2] if "=" in line else line


def _first_number(text: str) -> Fraction | None:
    match = NUMBER.search(text)
    return None if match is None else _value(match)


def _value(match: re.Match[str]) -> Fraction | None:
    digits, below = match[1].replace(",", ""), match[2] or "1"
    if len(digits) > DIGITS or len(below) > DIGITS or int(below) == 0:
        return None
    value = Fraction(digits) / int(below)
    return -value if match[0][0] in "-−" else value


def last_code(text: str) -> str | None:
    """Return the last fenced block that is marked as Python, else the last one; None without one.

    A block that is never closed, as when the tokens ran out, reaches to the end.
    """
    blocks = [(match[1].lower(), match[2]) for match in FENCE.finditer(text)]
    marked = [code for language, code in blocks if language in ("python", "py", "python3")]
    if marked:
        return marked[-1]
    return blocks[-1][1] if blocks else None

"""Finds the final answer in what a model wrote. Nothing here raises, whatever the text."""

import re
from fractions import Fraction

DIGITS = 40
"""A number with more digits than this is no answer."""
NUMBER = re.compile(
    r"(?<![\w.])[-−]?\s?\$?\s?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?([0-9]+))?"
)
GROUPING = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!]|,\\!)(?=[0-9]{3})")
BRACE = re.compile(r"\\boxed\{|\\?[{}]")
CUE = re.compile(r"(?:####|answer\b\**(?:\s+is\b)?)[:\s*]*", re.IGNORECASE)
LABEL = re.compile(r"answer\**\s*:\**[ \t]*(.*)", re.IGNORECASE)
FENCE = re.compile(
    r"^([ \t]*)```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
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


def last_answer(text: str) -> str | None:
    """Return all that follows the last `Answer:`; None where nothing does."""
    labels = list(LABEL.finditer(text))
    return text[labels[-1].start(1) :].strip("*` \t\r\n") or None if labels else None


def last_number(text: str) -> Fraction | None:
    """Return the number that a text ends in: the one its final answer names, else the last."""
    boxed = last_boxed(text)
    cues = list(CUE.finditer(text))
    for part in (boxed, *(_after(text, cue) for cue in cues[:-4:-1])):
        number = _first_number(part) if part is not None else None
        if number is not None:
            return number
    numbers = list(NUMBER.finditer(_plain(text)))
    return _value(numbers[-1]) if numbers else None


def as_number(text: str) -> Fraction | None:
    """Return the number that a text is, whole, up to blanks and a currency sign; None for none."""
    match = NUMBER.fullmatch(text.strip())
    return None if match is None else _value(match)


def _after(text: str, cue: re.Match[str]) -> str:
    """Return the rest of a cue's line."""
    return text[cue.end() :].partition("\n")[0]


def _first_number(text: str) -> Fraction | None:
    """Return the first number of an answer, behind the last = where it is a computation."""
    match = NUMBER.search(_plain(text.rpartition("=")[2]))
    return None if match is None else _value(match)


def _plain(text: str) -> str:
    """Return a text without LaTeX between thousands, which may be `{,}` or a thin space."""
    return GROUPING.sub("", text)


def _value(match: re.Match[str]) -> Fraction | None:
    digits, below = match[1].replace(",", ""), match[2] or "1"
    if len(digits) > DIGITS or len(below) > DIGITS or int(below) == 0:
        return None
    value = Fraction(digits) / int(below)
    return -value if match[0][0] in "-−" else value


def last_code(text: str, name: str | None = None) -> str | None:
    """Return the last fenced block that is marked as Python, else the last one; None without one.

    A block that is never closed, as when the tokens ran out, reaches to the end. One that stands
    in a list, and so further in, is taken out.

    Args:
        text: A sample.
        name: A function or class that is asked for: blocks that define it come before others.
    """
    blocks = [(match[2].lower(), _outdent(match[3], match[1])) for match in FENCE.finditer(text)]
    marked = [code for language, code in blocks if language in ("python", "py", "python3")]
    codes = marked or [code for _, code in blocks]
    if name is not None:
        define = re.compile(rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b", re.M)
        codes = [code for code in codes if define.search(code)] or codes
    return codes[-1] if codes else None


def _outdent(code: str, margin: str) -> str:
    """Return code without the margin that its fence has; what is further in stays so."""
    return re.sub(rf"^{margin}", "", code, flags=re.MULTILINE) if margin else code

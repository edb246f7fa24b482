"""Judges of programs: run them in a sandbox, on the tests that their item names.

Each of the three benchmarks has a grader; they differ in how a program is taken from the text and
in what it is tried on. A program is right when it is right on every test.
"""

import ast
import base64
import io
import json
import pickle
import re
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from esamp.errors import UsageError
from esamp.evals.graders.extract import last_code
from esamp.evals.graders.sandbox import Limits, Outcome, Program, Sandbox, way_in
from esamp.evals.task import Grade, Item

CALLED = re.compile(
    r"assert\s+[\s(]*(?:not\s+)?"
    r"(?:(?:set|sorted|tuple|list|math\.isclose|len|str|round|abs|float|int)\s*\()*"
    r"\s*([A-Za-z_]\w*)\s*\("
)
"""The function that an assertion of MBPP calls, within what its result is wrapped into."""
NO_CODE = Grade(correct=False, note="no code")
LONGEST = 100_000
"""Characters of a program."""
UNPACKED = 1 << 28
"""Bytes that the tests of a problem may unpack to."""
CONTEST_NAMES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "json", "typing", "builtins",
)  # fmt: skip
"""Modules whose names LiveCodeBench's solutions may use without an import; builtins win."""
CONTEST_RECURSION = 50_000


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One test: what is run, and what has to come of it."""

    program: Program
    expected: str = ""
    """What a script prints, or the JSON of what a function returns."""

    def passed(self, outcome: Outcome) -> bool:
        """Whether a program did what it should."""
        if outcome.status != "done" or outcome.error is not None:
            return False
        if self.program.how == "check":
            return outcome.passed
        if self.program.how == "call":
            return outcome.value is not None and same_value(outcome.value, self.expected)
        return same_output(outcome.stdout, self.expected)


@dataclass(frozen=True, kw_only=True)
class CodeGrader(ABC):
    """Runs programs. What is hostile in them meets the sandbox."""

    limits: Limits = field(default_factory=Limits)
    """Of one test."""
    total_seconds: float = 60.0
    """Of all tests of a sample together, by the clock."""
    unsafe: bool = False
    """Run programs without a sandbox, with all rights of this process and a few limits."""

    def __post_init__(self) -> None:
        if not self.total_seconds > 0:
            raise UsageError(f"total_seconds is {self.total_seconds}: give a positive number")

    def prepare(self) -> None:
        """Try the sandbox.

        Raises:
            UsageError: There is none here.
        """
        if not self.unsafe:
            way_in()

    @abstractmethod
    def program(self, item: Item, text: str) -> str | None:
        """Return the program in a sample; None where there is none."""

    @abstractmethod
    def trials(self, item: Item, program: str) -> Iterator[Trial]:
        """Yield the item's tests."""

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample."""
        program = self.program(item, text)
        if program is None or not program.strip():
            return NO_CODE
        if len(program) > LONGEST:
            return Grade(correct=False, note="program too long")
        # A surrogate cannot be sent on, and no interpreter reads it.
        program = program.encode(errors="replace").decode()
        deadline = time.monotonic() + self.total_seconds
        tried = False
        with Sandbox(self.limits, way=None if self.unsafe else way_in()) as sandbox:
            for number, trial in enumerate(self.trials(item, program)):
                if time.monotonic() > deadline:
                    return Grade(correct=False, note=f"test {number + 1}: no time is left")
                outcome = sandbox.run(trial.program)
                if not trial.passed(outcome):
                    printed = outcome.status == "done" and outcome.error is None
                    printed = printed and (trial.program.how != "check")
                    why = "wrong result" if printed else outcome.note
                    return Grade(correct=False, note=f"test {number + 1}: {why}")
                tried = True
        if not tried:
            raise UsageError(f"item {item.id} has no tests: nothing can be right")
        return Grade(correct=True)


@dataclass(frozen=True, kw_only=True)
class HumanEvalGrader(CodeGrader):
    """Completions of a prompt that ends in a docstring, or whole functions.

    `reference`: prompt, test, entry_point as in the data set.
    """

    def program(self, item: Item, text: str) -> str | None:
        """Return the prompt and its completion, or a whole function below the prompt's imports."""
        prompt, name = item.reference["prompt"], item.reference["entry_point"]
        code = last_code(text, name)
        code = text if code is None else code
        whole = re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", code, re.MULTILINE)
        if whole is not None:
            above = re.split(rf"^def[ \t]+{re.escape(name)}\b", prompt, flags=re.MULTILINE)[0]
            return f"{above}\n{code}"
        return f"{prompt.rstrip()}\n{_body(code)}"

    def trials(self, item: Item, program: str) -> Iterator[Trial]:
        """Yield the one call of the data set's check."""
        reference = item.reference
        checks = f"{reference['test']}\ncheck({reference['entry_point']})\n"
        yield Trial(program=Program(how="check", program=program, checks=checks))


@dataclass(frozen=True, kw_only=True)
class MBPPGrader(CodeGrader):
    """Functions with assertions. `reference`: setup, source that comes first; tests, assertions."""

    def program(self, item: Item, text: str) -> str | None:
        """Return the last block of code with the function that is tested, or the whole text."""
        called = CALLED.search("\n".join(item.reference["tests"]))
        code = last_code(text, called and called[1])
        return text if code is None else code

    def trials(self, item: Item, program: str) -> Iterator[Trial]:
        """Yield all assertions as one test, which is how the data set is run."""
        checks = "\n".join([item.reference["setup"], *item.reference["tests"]])
        yield Trial(program=Program(how="check", program=program, checks=checks))


@dataclass(frozen=True, kw_only=True)
class LiveCodeBenchGrader(CodeGrader):
    """Programs that read stdin, and functions that are called.

    `reference`: public and private, the data set's test cases as it packs them; function, the
    name to call, or None for a program.
    """

    limits: Limits = field(default_factory=lambda: Limits(output=32 << 20))
    total_seconds: float = 600.0

    def program(self, item: Item, text: str) -> str | None:
        """Return the last block of code, or the whole text where it is a program."""
        code = last_code(text, item.reference["function"])
        if code is not None:
            return code
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        return text

    def trials(self, item: Item, program: str) -> Iterator[Trial]:
        """Yield the public tests, then the others."""
        reference = item.reference
        for case in (*json.loads(reference["public"]), *unpack_tests(reference["private"])):
            yield contest_trial(program, case["input"], case["output"], reference["function"])


def contest_trial(program: str, given: str, expected: str, function: str | None) -> Trial:
    """Return a test of LiveCodeBench: of a function, called with lines of JSON, or of stdin."""
    if function is None:
        script = Program(
            how="script",
            program=program,
            stdin=given,
            names_of=CONTEST_NAMES,
            recursion=CONTEST_RECURSION,
        )
        return Trial(program=script, expected=expected)
    call = Program(
        how="call",
        program=program,
        function=function,
        arguments=[json.loads(line) for line in given.split("\n") if line.strip()],
        names_of=CONTEST_NAMES,
        recursion=CONTEST_RECURSION,
    )
    return Trial(program=call, expected=expected)


def same_value(returned: str, expected: str) -> bool:
    """Whether two JSON texts say the same; what a program returned may be anything."""
    wanted = json.loads(expected)
    try:
        return bool(json.loads(returned) == wanted)
    except (ValueError, RecursionError):
        return False


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs have the same lines; numbers in them may be written differently."""
    lines, wanted = printed.strip().split("\n"), expected.strip().split("\n")
    if len(lines) != len(wanted):
        return False
    return all(_same_line(*pair) for pair in zip(lines, wanted, strict=True))


def _same_line(line: str, wanted: str) -> bool:
    words, expected = line.split(), wanted.split()
    if words == expected:
        return True
    numbers, others = _numbers(words), _numbers(expected)
    return numbers is not None and numbers == others


def _numbers(words: Sequence[str]) -> list[Decimal] | None:
    try:
        numbers = [Decimal(word) for word in words]
    except InvalidOperation:
        return None
    # Not a number is equal to none, and one kind of it raises when it is compared.
    return None if any(number.is_nan() for number in numbers) else numbers


class _TextOnly(pickle.Unpickler):
    """Reads a pickled string; a pickle that wants to import anything is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def unpack_tests(packed: str) -> list[dict[str, str]]:
    """Return LiveCodeBench's private test cases: plain JSON, or base64(zlib(pickle(JSON))).

    Raises:
        UsageError: They are packed in another way, or would run code when they are unpacked.
    """
    try:
        text = packed if packed.lstrip().startswith("[") else _unpack(packed)
        cases = json.loads(text)
        return [{"input": str(case["input"]), "output": str(case["output"])} for case in cases]
    except (ValueError, TypeError, KeyError, zlib.error, pickle.PickleError, EOFError) as error:
        raise UsageError(
            f"private test cases cannot be unpacked ({error}): give them as the data set has them, "
            "base64 of zlib of a pickled JSON text"
        ) from error


def _unpack(packed: str) -> str:
    machine = zlib.decompressobj()
    data = machine.decompress(base64.b64decode(packed, validate=True), UNPACKED)
    if machine.unconsumed_tail:
        raise ValueError(f"they are longer than {UNPACKED} bytes")
    text = _TextOnly(io.BytesIO(data)).load()
    if not isinstance(text, str):
        raise ValueError(f"they hold a {type(text).__name__}")
    return text


def _body(text: str) -> str:
    """Return the part of a completion that belongs to the function: up to a line at the margin."""
    lines = text.strip("\n").split("\n")
    if lines[0][:1].strip():
        lines[0] = f"    {lines[0]}"  # chat templates take leading blanks away
    kept = [lines[0]]
    for line in lines[1:]:
        if line[:1].strip():
            break
        kept.append(line)
    return "\n".join(kept) + "\n"

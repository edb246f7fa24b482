"""Judges that run programs."""

import base64
import json
import os
import pickle
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import need_sandbox

from esamp.errors import UsageError
from esamp.evals.graders import HumanEvalGrader, LiveCodeBenchGrader, MBPPGrader
from esamp.evals.graders.code import same_output, unpack_tests
from esamp.evals.graders.sandbox import Limits
from esamp.evals.task import Item

QUICK = Limits(seconds=1)
PROMPT = (
    "import math\n\ndef half(x):\n    return x / 2\n\n"
    'def area(r: float) -> float:\n    """Area of a half circle."""\n'
)
TEST = "def check(candidate):\n    assert abs(candidate(2) - 6.2832) < 1e-3\n"
HUMANEVAL = Item(
    id="1", prompt="?", reference={"prompt": PROMPT, "test": TEST, "entry_point": "area"}
)
MBPP = Item(
    id="1", prompt="?", reference={"setup": "import math", "tests": ["assert f(4) == math.sqrt(4)"]}
)


def pack(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def contest(public, private=(), function=None):
    public, private = ([{"input": a, "output": b} for a, b in cases] for cases in (public, private))
    reference = {"public": json.dumps(public), "private": pack(private), "function": function}
    return Item(id="1", prompt="?", reference=reference)


@pytest.fixture(params=["sandbox", "unsafe"])
def settings(request):
    if request.param == "sandbox":
        need_sandbox()
    return {"limits": QUICK, "unsafe": request.param == "unsafe"}


@pytest.mark.parametrize(
    "text",
    [
        "    return half(math.pi * r * r)\n",
        "return half(math.pi * r * r)",
        "    return half(math.pi * r * r)\n\nprint(area(1)\n\ndef other(:",
        "Sure:\n```python\ndef area(r):\n    return math.pi * r * r / 2\n```\nDone.",
        f"```python\n{PROMPT}    return half(math.pi * r * r)\n```",
        "```python\n    return half(math.pi * r * r)\n```",
        "```python\n    area = math.pi * r * r\n    return half(area)\n```",
        "```\ndef area(r):\n    return math.pi * r * r / 2",
    ],
)
def test_a_completion_and_a_whole_function_are_right(settings, text):
    assert HumanEvalGrader(**settings).grade(HUMANEVAL, text).correct


@pytest.mark.parametrize(
    "text",
    [
        "    return 0\n",
        "",
        "    pass",
        "I do not know.",
        "```python\n```",
        "```python\ndef area(r): import os; os._exit(0)\n```",
        "\ud800",
        "\x00",
    ],
)
def test_a_wrong_completion_is_wrong(settings, text):
    grade = HumanEvalGrader(**settings).grade(HUMANEVAL, text)
    assert not grade.correct
    assert grade.note


def test_assertions(settings):
    grader = MBPPGrader(**settings)
    assert grader.grade(MBPP, "```python\ndef f(x): return x ** 0.5\n```").correct
    assert grader.grade(MBPP, "def f(x): return x ** 0.5").correct
    for text in (
        "def f(x): return x",
        "```\nimport sys\nsys.exit(0)\n```",
        "f(",
        "while True: pass",
    ):
        grade = grader.grade(MBPP, text)
        assert not grade.correct
        assert grade.note.startswith("test 1: ")


def test_the_block_that_defines_what_is_asked_for_counts(settings):
    right = (
        "Sure:\n```python\ndef f(x): return x ** 0.5\n```\n"
        "For example:\n```python\nprint(f(4))\n```"
    )
    assert MBPPGrader(**settings).grade(MBPP, right).correct
    listed = "1. So:\n\n   ```python\n   def f(x):\n       return x ** 0.5\n   ```"
    assert MBPPGrader(**settings).grade(MBPP, listed).correct


def test_scripts(settings):
    item = contest([("2 3\n", "5\n")], [("4 5\n", "9.0\n"), ("0 0\n", "0")])
    grader = LiveCodeBenchGrader(**settings)
    right = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    assert grader.grade(item, right).correct
    memorised = "```python\nprint(5)\n```"
    assert grader.grade(item, memorised).note == "test 2: wrong result"
    guarded = (
        "```python\nif __name__ == '__main__':\n    print(sum(map(int, input().split())))\n```"
    )
    assert grader.grade(item, guarded).correct
    assert grader.grade(item, "It cannot be done.").note == "no code"
    threaded = (
        "```python\nimport atexit, threading\natexit.register(print, '')\n"
        "threading.Thread(target=lambda: print(sum(map(int, input().split())))).start()\n```"
    )
    assert grader.grade(item, threaded).correct
    late = "```python\nprint(sum(map(int, input().split())))\nraise ValueError\n```"
    assert not grader.grade(item, late).correct


def test_functions(settings):
    item = contest([("[1, 2]\n3", "[3, 6]")], [("[]\n1", "[]")], function="times")
    grader = LiveCodeBenchGrader(**settings)
    method = (
        "class Solution:\n    def times(self, xs: List[int], k: int) -> List[int]:\n        return "
    )
    assert grader.grade(item, f"```python\n{method}[x * k for x in xs]\n```").correct
    assert grader.grade(item, f"```python\n{method}tuple(x * k for x in xs)\n```").correct
    assert grader.grade(
        item, "```python\ndef times(xs, k): return [x * k for x in xs]\n```"
    ).correct
    annotated = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    a: int\n"
    )
    assert grader.grade(item, f"```python\n{annotated}{method}[x * k for x in xs]\n```").correct
    endless = "__import__('sys').set_int_max_str_digits(0) or 10 ** 5000"
    for body in (endless, "[3, 6]", "{1}", "print([3, 6])", "exit(0)", "xs.append(xs) or xs"):
        assert not grader.grade(item, f"```python\n{method}{body}\n```").correct, body


def test_nothing_without_tests_is_right(settings):
    with pytest.raises(UsageError, match="has no tests"):
        LiveCodeBenchGrader(**settings).grade(contest([]), "```python\npass\n```")


def test_all_tests_together_have_a_limit(settings):
    item = contest([(str(n), "1") for n in range(50)])
    grader = LiveCodeBenchGrader(**settings, total_seconds=0.5)
    grade = grader.grade(item, "```python\nimport time\ntime.sleep(0.3)\nprint(1)\n```")
    assert "no time is left" in grade.note


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1   2 \n3", "1 2\n3", True),
        ("1.0", "1", True),
        ("YES\n", "YES", True),
        ("1\n2", "1 2", False),
        ("1", "1\n1", False),
        ("yes", "YES", False),
        ("1.0000001", "1", False),
        ("", "0", False),
        ("nan", "nan", True),
        ("sNaN 1", "1 1", False),
        ("a 1.0", "a 1", False),
    ],
)
def test_outputs_are_compared_by_lines_and_words(printed, expected, same):
    assert same_output(printed, expected) is same


@given(st.lists(st.text()), st.text())
def test_an_output_equals_itself(lines, end):
    assert same_output("\n".join(lines) + end, "\n".join(lines) + end)


@given(st.lists(st.fixed_dictionaries({"input": st.text(), "output": st.text()})))
def test_tests_are_unpacked(cases):
    assert unpack_tests(pack(cases)) == unpack_tests(json.dumps(cases)) == cases


class Harm:
    def __reduce__(self):
        return os.system, ("touch /tmp/esamp-was-here",)


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


@pytest.mark.parametrize(
    "private",
    [
        packed(Harm()),
        packed([1]),
        packed("no json"),
        packed("[1]"),
        packed('[{"input": "1"}]'),
        "no base64",
        base64.b64encode(b"no zlib").decode(),
        base64.b64encode(zlib.compress(b"no pickle")).decode(),
        base64.b64encode(zlib.compress(b"")).decode(),
        "",
    ],
)
def test_a_pickle_holds_text_or_is_refused(private):
    with pytest.raises(UsageError, match="private test cases cannot be unpacked"):
        unpack_tests(private)
    assert not os.path.exists("/tmp/esamp-was-here")


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("esamp.evals.graders.code.UNPACKED", 1000)
    with pytest.raises(UsageError, match="longer than 1000 bytes"):
        unpack_tests(packed("[" + " " * 100_000 + "]"))


def test_limits_are_checked():
    with pytest.raises(UsageError, match=r"total_seconds is 0"):
        MBPPGrader(total_seconds=0.0)

"""Final answers in what models write."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.evals.graders.extract import (
    as_number,
    last_answer,
    last_answer_line,
    last_boxed,
    last_code,
    last_number,
)

HOSTILE = [
    "\\boxed{" * 20_000,
    "{" * 100_000,
    "```\n" * 30_000,
    "answer:" * 20_000,
    "9" * 200_000,
    "answer" + " " * 100_000,
    "-" * 100_000,
    "1," * 100_000,
    "\x00\ud800",
    "* " * 50_000,
]


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"} \boxed{ 3 }", "3"),
        (r"\boxed{\boxed{4}}", "4"),
        ("boxed{1}", None),
        ("", None),
    ],
)
def test_the_last_box_that_is_closed(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234", 1234),
        ("Answer: $1,234.50", Fraction("1234.5")),
        ("Answer: 7\n\nI checked it 3 times.", 7),
        ("The answer is 5 apples of 10.", 5),
        ("Answer: 3 + 4 = 7", 7),
        ("**Answer:** 12", 12),
        ("Answer: −3", -3),
        ("10-3=7", 7),
        ("Answer: 1/4", Fraction(1, 4)),
        ("Answer:\n\n9", 9),
        (r"so \boxed{8} of 9", 8),
        ("first 1, at last 2.", 2),
        (r"\boxed{70{,}000}", 70000),
        (r"Answer: 70\,000", 70000),
        (r"\boxed{2 \times 35 = 70}", 70),
        ("Answer: 1/0", None),
        ("Answer: none", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_the_number_that_a_text_ends_in(text, number):
    assert last_number(text) == number


@given(st.fractions(min_value=-(10**9), max_value=10**9).filter(lambda x: x.denominator < 10**6))
def test_a_number_is_read_back(number):
    assert as_number(str(number)) == number
    assert last_number(f"I take 5 of 6.\nAnswer: {number}.") == number


@given(st.text(), st.text())
def test_no_text_is_an_exception(before, after):
    for text in (
        before,
        f"{before}\\boxed{{{after}",
        f"{before}Answer:{after}",
        f"{before}```{after}",
    ):
        for find in (last_boxed, last_number, last_answer_line, last_code):
            find(text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_nor_does_a_long_one_take_long(text):
    start = time.process_time()
    for find in (last_boxed, last_number, last_answer_line, last_code):
        find(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Answer: 4\nAnswer: 5", "5"),
        ("**Answer: yes**", "yes"),
        ("Answer:", None),
        ("answer 4", None),
    ],
)
def test_the_last_answer_line(text, line):
    assert last_answer_line(text) == line


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```\n```py\nb\n```", "b\n"),
        ("```python\na\n```\nwhich prints\n```\n1\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("so:\n```python\na = 1\nb", "a = 1\nb"),
        ("a = 1", None),
    ],
)
def test_the_last_code(text, code):
    assert last_code(text) == code


def test_the_last_code_that_defines_a_name():
    text = "```python\ndef f(): 1\n```\n```python\ndef f(): 2\n```\n```python\nf()\n```"
    assert last_code(text, "f") == "def f(): 2\n"
    assert last_code(text, "g") == "f()\n"


def test_an_answer_may_have_several_lines():
    assert last_answer("Answer: 1\n**Answer:**\n1 2\n2 1\n") == "1 2\n2 1"
    assert last_answer("Answer:") is None
    assert last_answer("1 2") is None

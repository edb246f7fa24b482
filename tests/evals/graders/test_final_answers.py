"""Judges that read: numbers, letters, mathematics, reasoning-gym."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.errors import MissingDependencyError
from esamp.evals.graders import ChoiceGrader, GymGrader, MathGrader, NumberGrader
from esamp.evals.graders.gym import create
from esamp.evals.task import Grader, Item

GYM = {"family": "gcd", "config": {"max_value": 30}, "seed": 1, "size": 5, "index": 2}
JUDGES = {
    "aime": (MathGrader(integers=True), {"answer": "025"}),
    "math": (MathGrader(), {"answer": r"\frac{14}{3}"}),
    "choice": (ChoiceGrader(), {"answer": "B", "choices": 4}),
    "number": (NumberGrader(), {"answer": "1234"}),
    "gym": (GymGrader(), GYM),
}
HOSTILE = [
    "",
    " \n",
    "\x00\ud800\\boxed{",
    "\\boxed{" * 500,
    r"\boxed{\frac{1}{0}}",
    r"\boxed{()}",
    r"\boxed{" + "1" * 5000 + "}",
    "Answer: " + "9" * 5000,
    "Answer: \ud800",
    "Answer: 1/0",
    r"\boxed{\sqrt[0]{-1}}",
    r"\boxed{x=}",
    r"\boxed{[1,2)}",
    "Answer: [[[[",
    "∞",
    "Answer: nan",
    r"\boxed{\infty}",
    "Answer: inf",
    "Answer: 1e999999",
]


def judge(which, text):
    grader, reference = JUDGES[which]
    return grader.grade(Item(id="1", prompt="?", reference=reference), text)


@pytest.mark.parametrize("which", JUDGES)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_hostile_text_is_wrong_and_no_exception(which, text):
    grade = judge(which, text)
    assert not grade.correct
    assert grade.answer is not None or grade.note


@given(st.sampled_from(sorted(set(JUDGES) - {"math", "aime"})), st.text())
def test_any_text_gets_a_grade(which, text):
    assert judge(which, text).correct in (True, False)


@pytest.mark.parametrize("which", JUDGES)
def test_a_grader_is_one_of_the_protocol(which):
    assert isinstance(JUDGES[which][0], Grader)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{25}",
        r"\boxed{025}",
        r"\boxed{5^2}",
        r"\boxed{\text{25}}",
        r"\boxed{26} no, \boxed{ 25 }",
        "The answer is 25",
    ],
)
def test_aime_compares_whole_numbers(text):
    grade = judge("aime", text)
    assert (grade.correct, grade.answer) == (True, "25")


@pytest.mark.parametrize(
    "text",
    [r"\boxed{1025}", r"\boxed{25} \boxed{26}", r"\boxed{24.9}", r"\boxed{25, 26}", r"\boxed{-25}"],
)
def test_aime_takes_no_other_number(text):
    assert not judge("aime", text).correct


def test_equal_expressions_are_one_answer():
    texts = [r"\boxed{4\frac23}", r"\boxed{14/3}", r"so $\boxed{\frac{28}{6}}$"]
    assert {(judge("math", text).correct, judge("math", text).answer) for text in texts} == {
        (True, "14/3")
    }
    assert judge("math", r"\boxed{0.5}").answer == judge("math", r"\boxed{\frac12}").answer == "1/2"


@pytest.mark.parametrize(
    "text",
    [
        "Answer: B",
        "**Answer: (B)**",
        r"Answer: \boxed{B}",
        "answer is B.",
        r"\boxed{\text{B}}",
        "Answer: A\nAnswer: B",
        "**Answer:** B) it is",
        r"Answer: \(B\)",
        "Answer: `B`",
        "Answer: Option B",
        "Answer: B\nIn this answer I am confident.",
    ],
)
def test_the_last_letter_counts(text):
    assert judge("choice", text).correct


@pytest.mark.parametrize(
    "text",
    [
        "Answer: A or B",
        "Answer: B and C",
        "Answer: `B` or `C`",
        "Answer: Because",
        "B",
        "Answer: E",
        "Answer: B\nAnswer: A/B",
    ],
)
def test_two_letters_or_none_are_no_answer(text):
    grade = judge("choice", text)
    assert (grade.correct, grade.note) == (False, "no answer")


def test_numbers_have_one_form():
    assert {judge("number", text).answer for text in ("#### 1,234", "Answer: $1234.00")} == {"1234"}


def test_gym_needs_the_right_answer_and_forgives_its_dress():
    right = create("gcd", GYM["config"], GYM["size"], GYM["seed"])[GYM["index"]]["answer"]
    for text in (
        f"Answer: {right}",
        f"Answer: {right}.",
        f"Answer: the GCD is {right}",
        rf"\boxed{{{right}}}",
        f"7 and 8 give {right}",
    ):
        assert judge("gym", text).correct, text
    assert not judge("gym", f"Answer: {int(right) + 1}").correct


@pytest.mark.parametrize("family", ["countdown", "simple_integration", "n_queens"])
def test_gym_evaluates_no_code_of_a_model(family, tmp_path):
    """These families hand answers to `eval`."""
    reference = {"family": family, "config": {}, "seed": 0, "size": 2, "index": 0}
    item = Item(id="1", prompt="?", reference=reference)
    entry = create(family, {}, 2, 0)[0]
    answer = entry["answer"] or entry["metadata"]["solution"]
    assert GymGrader().grade(item, f"Answer: {answer}").correct
    mark = tmp_path / "mark"
    path = "+".join(f"chr({ord(letter)})" for letter in str(mark))
    for code in (
        f"open('{mark}', 'w')",
        f"(open)({path}, chr(119))",
        f"open ({path}, chr(119))",
        f"[open][0]({path}, chr(119))",
        f"ｏｐｅｎ({path}, chr(119))",
        f"f'{{open({path}, chr(119))}}'",
        f"__import__('os').system('touch {mark}')",
    ):
        assert not GymGrader().grade(item, f"Answer: {code}").correct
        assert not mark.exists(), code


def test_gym_takes_signs_that_are_no_code():
    reference = {"family": "ab", "config": {}, "seed": 0, "size": 2, "index": 0}
    answer = create("ab", {}, 2, 0)[0]["answer"]
    assert "#" in answer
    item = Item(id="1", prompt="?", reference=reference)
    assert GymGrader().grade(item, f"Answer: {answer}").correct


def test_gym_reads_grids():
    reference = {"family": "mini_sudoku", "config": {}, "seed": 0, "size": 2, "index": 0}
    item = Item(id="1", prompt="?", reference=reference)
    answer = create("mini_sudoku", {}, 2, 0)[0]["answer"]
    for text in (f"Answer:\n{answer}", f"**Answer:**\n\n```\n{answer}\n```\n"):
        assert GymGrader().grade(item, text).correct, text


def test_gym_gives_no_points_for_a_wrong_answer_of_the_right_form(monkeypatch):
    problems = create("gcd", GYM["config"], GYM["size"], GYM["seed"])
    monkeypatch.setattr(type(problems), "score_answer", lambda *_: 0.5)
    assert not judge("gym", "Answer: 1").correct


@pytest.mark.parametrize(
    ("grader", "module"), [(MathGrader(), "math_verify"), (GymGrader(), "reasoning_gym")]
)
def test_what_is_missing_is_named(monkeypatch, grader, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esamp\["):
        grader.prepare()

"""What every task promises: a gold answer is right, a wrong one is wrong, and it says which is.

The rows are made up, in the columns of each data set.
"""

import base64
import json
import os
import pickle
import re
import zlib
from dataclasses import dataclass
from typing import Any

import pytest

from esamp.errors import UsageError
from esamp.evals.graders import GradingPool
from esamp.evals.graders.code import CodeGrader
from esamp.evals.graders.gym import create
from esamp.evals.graders.sandbox import way_in
from esamp.evals.task import Grader, Task
from esamp.evals.tasks import TASKS, find_task

SUM = {
    "question_id": "sum",
    "question_content": "Print the sum of two numbers.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin"}]),
    "private_test_cases": base64.b64encode(
        zlib.compress(pickle.dumps(json.dumps([{"input": "20 3", "output": "23"}])))
    ).decode(),
    "metadata": "{}",
}


@dataclass(frozen=True)
class Example:
    """A row, and what may be answered."""

    row: dict[str, Any]
    gold: str
    wrong: str


def option(item, text):
    """Return the letter of an option."""
    return re.search(rf"^([A-D])\) {text}$", item.prompt, re.MULTILINE)[1]


EXAMPLES = {
    "aime24": Example({"id": 60, "problem": "What is 5 squared?", "answer": "025"},
                      r"It is $\boxed{25}$.", r"It is $\boxed{52}$."),
    "aime25": Example({"problem": "What is 50 $\times \frac{1}{2}$?", "answer": "25"},
                      r"It is $\boxed{025}$.", r"\boxed{100}"),
    "math500": Example({"unique_id": "a/1", "problem": "Halve 3.", "answer": r"\frac{3}{2}"},
                       r"$\boxed{1.5}$", r"$\boxed{\frac{2}{3}}$"),
    "gsm8k": Example({"question": "Ann buys 9 pens.", "answer": "3+9=<<3+9=12>>12\n#### 12"},
                     "Answer: 12", "Answer: 27"),
    "gpqa-diamond": Example({"Record ID": "r", "Question": "What is hot?", "Correct Answer": "fire",
                             "Incorrect Answer 1": "ice", "Incorrect Answer 2": "snow",
                             "Incorrect Answer 3": "hail"}, "fire", "snow"),
    "humaneval": Example({"task_id": "H/0", "prompt": "def twice(x):\n    \"\"\"Double x.\"\"\"\n",
                          "entry_point": "twice", "canonical_solution": "    return 2 * x\n",
                          "test": "def check(f):\n    assert f(4) == 8\n    assert f(0) == 0\n"},
                         "    return 2 * x\n", "    return x + 4\n"),
    "mbpp": Example({"task_id": 1, "text": "Write a function that adds one.", "code": "",
                     "test_list": ["assert add(1) == 2", "assert add(-1) == 0"],
                     "test_setup_code": "", "challenge_test_list": []},
                    "```python\ndef add(x):\n    return x + 1\n```",
                    "```python\ndef add(x):\n    return 2\n```"),
    "livecodebench-v5": Example(SUM, "```python\nprint(sum(map(int, input().split())))\n```",
                                "```python\nprint(3)\n```"),
    "creative": Example({"etextno": 1, "context": "It was late and the rain went on."}, "", ""),
    "open-ended": Example({"prompt": "Name a colour."}, "", ""),
}  # fmt: skip
NAMES = [*TASKS, "reasoning-gym:gcd", "reasoning-gym:chain_sum"]


def test_every_task_has_an_example():
    assert EXAMPLES.keys() == TASKS.keys()


@pytest.fixture(params=NAMES)
def task(request):
    task = find_task(request.param)
    if isinstance(task.grader, CodeGrader):
        try:
            way_in()
        except UsageError as error:
            if os.environ.get("ESAMP_ENGINES") == "required":
                pytest.fail(f"{task.name} cannot be tested: {error}")
            pytest.skip(f"*** {task.name} is NOT tested: {error} ***")
    return task


@pytest.fixture
def example(task, tmp_path):
    """An item with a gold and a wrong answer to it."""
    if task.name not in EXAMPLES:
        (item,) = task.load(None, 1, 7)
        problems = create(*(item.reference[key] for key in ("family", "config", "size", "seed")))
        gold = problems[item.reference["index"]]["answer"]
        return item, f"Answer: {gold}", f"Answer: {int(gold) + 1}"
    example = EXAMPLES[task.name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(example.row))
    (item,) = task.load(path, None, 0)
    if task.name == "gpqa-diamond":
        return (
            item,
            f"Answer: {option(item, example.gold)}",
            f"Answer: {option(item, example.wrong)}",
        )
    return item, example.gold, example.wrong


def test_a_task_has_the_shape_of_one(task):
    assert isinstance(task, Task)
    assert task.grader is None or isinstance(task.grader, Grader)
    assert task.max_new_tokens > 0
    assert hash(task.grader) is not None


def test_items_are_json_data_with_a_prompt(example):
    item, _, _ = example
    assert item.prompt.strip()
    assert json.loads(json.dumps(item.reference)) == item.reference


def test_gold_is_right_and_wrong_is_wrong_also_in_a_worker(task, example):
    item, gold, wrong = example
    if task.grader is None:
        assert task.name in ("creative", "open-ended")
        return
    here = [task.grader.grade(item, text) for text in (gold, wrong, "", "I do not know.")]
    assert [grade.correct for grade in here] == [True, False, False, False]
    assert all(grade.note or grade.answer for grade in here[1:])
    with GradingPool(task.grader, workers=1) as pool:
        assert pool.submit(item, (gold, wrong, "", "I do not know.")).result(timeout=120) == here


def test_loading_twice_gives_the_same(task, tmp_path):
    if task.name in EXAMPLES:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(EXAMPLES[task.name].row))
    else:
        path = None
    assert task.load(path, 1, 3) == task.load(path, 1, 3)


@pytest.mark.parametrize("name", TASKS)
def test_a_row_without_its_columns_is_refused(name, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"something": "else"}')
    with pytest.raises(UsageError, match=r"line 1: there is no column '.*'; the columns are 'some"):
        find_task(name).load(path, None, 0)

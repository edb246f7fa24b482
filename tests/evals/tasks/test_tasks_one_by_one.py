"""What is particular to each task."""

import json
from collections import Counter

import pytest

from esamp.errors import UsageError
from esamp.evals.tasks import TASKS, find_task
from esamp.evals.tasks.reasoning_gym import EASY


def load(tmp_path, name, *rows, seed=0):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return find_task(name).load(path, None, seed)


def test_an_unknown_name_is_answered_by_all_names():
    for name in ("aime", "", "reasoning-gym", "reasoning-gym:"):
        with pytest.raises(UsageError) as caught:
            find_task(name)
        assert all(known in str(caught.value) for known in (*TASKS, "reasoning-gym:FAMILY"))


def test_unsafe_code_is_for_code_alone():
    for name in (*TASKS, "reasoning-gym:gcd"):
        grader = find_task(name, unsafe_code=True).grader
        assert getattr(grader, "unsafe", None) in (None, True)
        assert not getattr(find_task(name).grader, "unsafe", False)


@pytest.mark.parametrize("answer", ["025", 25, "25"])
def test_aime_answers_may_be_padded(tmp_path, answer):
    (item,) = load(tmp_path, "aime24", {"problem": "How many?", "answer": answer})
    assert find_task("aime24").grader.grade(item, r"\boxed{25}").correct


@pytest.mark.parametrize("answer", ["1000", "-1", "2.5", "x", "", True, ["1"], "２５"])
def test_aime_answers_are_small_whole_numbers(tmp_path, answer):
    with pytest.raises(UsageError, match="line 1: column 'answer'"):
        load(tmp_path, "aime25", {"problem": "How many?", "answer": answer})


def test_aime25_mends_commands_and_leaves_white_space(tmp_path):
    broken = "Let $\frac{1}{2}\times\theta\r\n\tand\text{ x}$ \x08egin{a}.\tTo it \r\night."
    (item,) = load(tmp_path, "aime25", {"problem": broken, "answer": 1})
    mended = "Let $\\frac{1}{2}\\times\\theta\r\n\tand\\text{ x}$ \\begin{a}.\tTo it \r\night."
    assert item.prompt.endswith(mended)


GPQA = {"Question": "Which?", "Correct Answer": "right", "Record ID": "r1",
        **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}}  # fmt: skip


def test_gpqa_options_depend_on_seed_and_id_alone(tmp_path):
    others = [{**GPQA, "Record ID": f"o{n}"} for n in range(40)]
    alone = load(tmp_path, "gpqa-diamond", GPQA)[0]
    assert load(tmp_path, "gpqa-diamond", *others, GPQA)[-1] == alone
    for item in load(tmp_path, "gpqa-diamond", *others):
        letter = item.reference["answer"]
        assert f"{letter}) right" in item.prompt
    letters = Counter(each.reference["answer"] for each in load(tmp_path, "gpqa-diamond", *others))
    assert set(letters) == set("ABCD")
    prompts = {load(tmp_path, "gpqa-diamond", GPQA, seed=seed)[0].prompt for seed in range(20)}
    assert len(prompts) > 5


def test_gpqa_is_private_in_errors_too(tmp_path):
    row = {**GPQA, "Incorrect Answer 2": ["secret"], "Question": "secret"}
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "gpqa-diamond", row)
    assert "secret" not in str(caught.value)
    assert [name for name, task in TASKS.items() if task.private] == ["gpqa-diamond"]


@pytest.mark.parametrize(
    ("answer", "number"),
    [("So 3*4=12.\n#### 1,200", "1200"), ("12", "12"), (7.5, "15/2"), ("-3", "-3")],
)
def test_gsm8k_answers(tmp_path, answer, number):
    (item,) = load(tmp_path, "gsm8k", {"question": "How many?", "answer": answer})
    assert item.reference == {"answer": number}


@pytest.mark.parametrize("answer", ["none", "#### ", "1 2", {}])
def test_gsm8k_answers_are_numbers(tmp_path, answer):
    with pytest.raises(UsageError, match="column 'answer'"):
        load(tmp_path, "gsm8k", {"question": "How many?", "answer": answer})


def test_mbpp_has_two_sets_of_columns(tmp_path):
    tests = ["assert f(1) == 1"]
    full = {"task_id": 1, "text": "Same.", "test_list": tests, "test_setup_code": "import math"}
    sanitized = {
        "task_id": 2,
        "prompt": "Same.",
        "test_list": tests,
        "test_imports": ["import math"],
    }
    one, two = load(tmp_path, "mbpp", full, sanitized)
    assert (one.prompt, one.reference["tests"]) == (two.prompt, two.reference["tests"])
    assert one.reference["setup"].strip() == two.reference["setup"].strip() == "import math"
    assert [one.id, two.id] == ["1", "2"]
    for wrong in ([], "assert True", [1]):
        with pytest.raises(UsageError, match="column 'test_list'"):
            load(tmp_path, "mbpp", {**full, "test_list": wrong})


LCB = {
    "question_content": "Add.",
    "question_id": "q",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": '[{"input": "1", "output": "1"}]',
    "private_test_cases": "[]",
}


def test_livecodebench_shows_the_starter_code_where_there_is_one(tmp_path):
    (script,) = load(tmp_path, "livecodebench-v5", LCB)
    assert "stdin" in script.prompt
    assert script.reference["function"] is None
    starter = "class Solution:\n    def add(self, a):\n        "
    row = {**LCB, "starter_code": starter, "metadata": '{"func_name": "add"}'}
    (function,) = load(tmp_path, "livecodebench-v5", row)
    assert starter.strip("\n") in function.prompt
    assert "stdin" not in function.prompt
    assert function.reference["function"] == "add"


@pytest.mark.parametrize(
    ("column", "value"),
    [("public_test_cases", "["), ("public_test_cases", "{}"), ("public_test_cases", "[1]"),
     ("metadata", "[]"), ("starter_code", "class Solution: pass"), ("starter_code", 3)],
)  # fmt: skip
def test_livecodebench_columns_are_checked(tmp_path, column, value):
    with pytest.raises(UsageError, match="column '"):
        load(tmp_path, "livecodebench-v5", {**LCB, column: value})


def test_creative_takes_the_last_32_words_before_the_middle(tmp_path):
    text = "\n ".join(f"w{n}" for n in range(200))
    (item,) = load(tmp_path, "creative", {"etextno": 7, "context": text})
    assert item.prompt == " ".join(f"w{n}" for n in range(68, 100))
    (short,) = load(tmp_path, "creative", {"context": "a b c"})
    assert short.prompt == "a"
    with pytest.raises(UsageError, match="two words or more"):
        load(tmp_path, "creative", {"context": "a"})


def test_a_creative_file_is_continued_as_it_stands(tmp_path):
    (item,) = load(tmp_path, "creative", {"prompt": "  Once, \n"})
    assert item.prompt == "  Once, \n"
    assert find_task("creative").plain_text
    assert find_task("creative").max_new_tokens == 512


def test_open_ended_has_24_prompts_of_its_own():
    items = find_task("open-ended").load(None, None, 0)
    assert len({item.prompt for item in items}) == 24
    assert find_task("open-ended").load(None, 3, 5) == items[:3]


@pytest.mark.parametrize("family", [*EASY, "countdown"])
def test_reasoning_gym_problems_are_those_of_their_seed(family):
    task = find_task(f"reasoning-gym:{family}")
    items = task.load(None, 12, 3)
    assert task.load(None, 5, 3) == items[:5]
    assert task.load(None, 12, 4) != items
    assert "Answer:" in items[0].prompt
    json.dumps([item.reference for item in items])


def test_reasoning_gym_says_what_there_is():
    with pytest.raises(UsageError, match=r"no family 'nope': give one of .*chain_sum.*gcd"):
        find_task("reasoning-gym:nope").load(None, 1, 0)


def test_reasoning_gym_reads_no_file(tmp_path):
    with pytest.raises(UsageError, match="leave out --data-file"):
        find_task("reasoning-gym:gcd").load(tmp_path / "a.jsonl", 1, 0)

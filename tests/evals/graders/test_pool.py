"""Grading in worker processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slow_graders import Missing, Obedient

from esamp.errors import UsageError
from esamp.evals.graders import GradingPool, MathGrader, MBPPGrader
from esamp.evals.graders.pool import time_limit
from esamp.evals.task import Grade, Item

ITEM = Item(id="right", prompt="?")


def workers_left(marker=b""):
    """Worker processes: of this process, or, after its end, those that have a marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"graders.worker" in command and marker in command:
            found += [folder] if marker or parent == os.getpid() else []
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_grades_come_in_the_order_of_the_samples_whatever_the_number_of_workers(workers):
    texts = ["right", "wrong", "sleep 0.2", "right", "write", "raise memory", "die", "right"]
    with GradingPool(Obedient(), workers=workers, seconds=30.0) as pool:
        futures = [pool.submit(ITEM, texts), pool.submit(ITEM, []), pool.submit(ITEM, ["right"])]
        grades, none, one = (future.result(timeout=60) for future in futures)
    assert [grade.correct for grade in grades] == [
        True,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert grades[6].note == "the grader's process ended"
    assert "MemoryError" in grades[5].note
    assert (none, [each.correct for each in one]) == ([], [True])
    assert workers_left() == []


def test_a_sample_that_hangs_is_wrong_and_the_next_ones_are_graded():
    with GradingPool(Obedient(), workers=1, seconds=0.5) as pool:
        grades = pool.submit(ITEM, ["hang", "right", "sleep 60", "right"]).result(timeout=60)
    assert [grade.correct for grade in grades] == [False, True, False, True]
    assert [grade.note for grade in grades] == ["timed out", None, "timed out", None]


def test_a_formula_without_end_is_ended():
    item = Item(id="1", prompt="?", reference={"answer": "7"})
    tower = r"\boxed{9^{9^{9^{9^{9}}}}}"
    with GradingPool(MathGrader(), workers=1, seconds=4.0) as pool:
        wrong, right = pool.submit(item, [tower, r"\boxed{7}"]).result(timeout=60)
    assert (wrong.correct, right.correct) == (False, True)


def test_workers_import_no_torch():
    with GradingPool(Obedient(), workers=1) as pool:
        assert pool.submit(ITEM, ["modules"]).result(timeout=60)[0].correct


def test_sets_have_one_order_in_all_workers():
    answers = set()
    for _ in range(2):
        with GradingPool(Obedient(), workers=1) as pool:
            answers.add(pool.submit(ITEM, ["order"]).result(timeout=60)[0].answer)
    assert len(answers) == 1


def test_submitting_does_not_wait():
    with GradingPool(Obedient(), workers=1) as pool:
        start = time.monotonic()
        future = pool.submit(ITEM, ["sleep 1"] * 2)
        assert time.monotonic() - start < 0.5
        assert not future.done()
    assert len(future.result(timeout=0)) == 2


def test_a_worker_that_was_ended_between_two_samples_is_replaced():
    with GradingPool(Obedient(), workers=1) as pool:
        pid = pool.submit(ITEM, ["modules"]).result(timeout=60)[0].answer
        subprocess.run(["kill", "-9", pid], check=True)
        time.sleep(0.2)
        assert pool.submit(ITEM, ["right"]).result(timeout=60) == [
            Grade(correct=True, answer="right")
        ]


@pytest.mark.parametrize(("kind", "error"), [("usage", UsageError), ("key", RuntimeError)])
def test_a_mistake_that_is_not_the_samples_is_raised(kind, error):
    with GradingPool(Obedient(), workers=1) as pool:
        future = pool.submit(ITEM, ["right", f"raise {kind}", "right"])
        with pytest.raises(error, match="told so"):
            future.result(timeout=60)


def test_what_is_missing_is_said_at_once():
    with pytest.raises(UsageError, match="install it"), GradingPool(Missing(), workers=2):
        pass
    assert workers_left() == []


def test_a_grader_that_no_worker_can_import_is_refused(capfd):
    module = type(sys)("nowhere")
    exec("class Lost:\n  def grade(self, item, text): pass", module.__dict__)
    module.Lost.__module__ = "nowhere"
    sys.modules["nowhere"] = module
    try:
        with pytest.raises(UsageError, match="Lost does not start"), GradingPool(module.Lost()):
            pass
    finally:
        del sys.modules["nowhere"]
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_ends_it_at_once(error):
    start = time.monotonic()
    pool = GradingPool(Obedient(), workers=2, seconds=300.0)
    future = None

    def interrupted():
        nonlocal future
        with pool:
            future = pool.submit(ITEM, ["sleep 200"] * 50)
            time.sleep(0.5)
            raise error

    with pytest.raises(error):
        interrupted()
    assert time.monotonic() - start < 30
    assert future.cancelled()
    assert workers_left() == []


def test_workers_end_with_the_process_that_started_them(tmp_path):
    code = (
        "import sys, time; sys.path[:0] = sys.argv[1:]\n"
        "from slow_graders import Obedient\n"
        "from esamp.evals.graders.pool import GradingPool\n"
        "from esamp.evals.task import Item\n"
        "with GradingPool(Obedient(), workers=2, seconds=3.0) as pool:\n"
        "  pool.submit(Item(id='1', prompt='?'), ['hang', '1', '1'])\n"
        "  print(1, flush=True)\n  time.sleep(100)"
    )
    folder = str(Path(__file__).parent)
    marker = str(tmp_path).encode()
    owner = subprocess.Popen([sys.executable, "-c", code, folder, marker], stdout=subprocess.PIPE)
    assert owner.stdout.read(1) == b"1"
    assert workers_left(marker)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for _ in range(100):
        if not workers_left(marker):
            break
        time.sleep(0.1)
    assert workers_left(marker) == []


def test_a_closed_pool_takes_nothing():
    pool = GradingPool(Obedient(), workers=1)
    with pytest.raises(UsageError, match="not open"):
        pool.submit(ITEM, ["right"])
    with pool:
        pass
    with pytest.raises(UsageError, match="not open"):
        pool.submit(ITEM, ["right"])


def test_numbers_are_checked(unchecked):
    with pytest.raises(UsageError, match="0 grading workers"):
        GradingPool(Obedient(), workers=0)
    with pytest.raises(UsageError, match="time limit"):
        GradingPool(Obedient(), seconds=0.0)


def test_code_has_the_time_that_its_tests_have():
    assert time_limit(MBPPGrader()) > MBPPGrader().total_seconds + 10
    assert time_limit(Obedient()) == 20

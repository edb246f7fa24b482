"""Grades samples in worker processes, while the generator goes on."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any

from esamp.errors import EsampError, UsageError
from esamp.evals.graders.code import CodeGrader
from esamp.evals.graders.worker import START
from esamp.evals.task import Grade, Grader, Item

PACKAGE = Path(__file__).parents[2]
SECONDS = 20.0
"""Time limit of a sample that is read, not run."""
GRACE = 5.0
"""Seconds after which a worker that its own clock did not end is ended from outside."""
START_SECONDS = 120.0
TIMED_OUT = Grade(correct=False, note="timed out")
DIED = Grade(correct=False, note="the grader's process ended")


def time_limit(grader: Grader) -> float:
    """Return the seconds that a sample may take: for code, what its tests may and a start."""
    if isinstance(grader, CodeGrader):
        return grader.total_seconds + grader.limits.wall_seconds + SECONDS
    return SECONDS


class GradingPool:
    """Worker processes that grade. Use it as a context manager.

        with GradingPool(task.grader) as pool:
            future = pool.submit(item, texts)
            ...
            grades = future.result()

    Leaving it waits for what was submitted; leaving it by an exception, Ctrl-C among them, ends the
    workers at once and cancels the rest. A worker that takes too long with a sample, or dies of it,
    is replaced, and the sample is graded wrong. Grades do not depend on the number of workers.
    """

    def __init__(
        self, grader: Grader, *, workers: int | None = None, seconds: float | None = None
    ) -> None:
        """Say how to grade; processes start when the pool is entered.

        Args:
            grader: Pickled into the workers, so its class must be importable there.
            workers: How many processes; None is one for each core but one.
            seconds: Time limit of a sample; None is the grader's own, see `time_limit`.

        Raises:
            UsageError: A number cannot be used.
        """
        self._count = max(1, (os.cpu_count() or 1) - 1) if workers is None else workers
        self._seconds = time_limit(grader) if seconds is None else seconds
        if self._count < 1:
            raise UsageError(f"there are {workers} grading workers: give 1 or more")
        if not self._seconds > 0:
            raise UsageError(f"the time limit of a sample is {seconds} s: give a positive number")
        self._grader = grader
        self._jobs: queue.SimpleQueue[tuple[_Group, int] | None] = queue.SimpleQueue()
        self._seats = [_Seat(grader, self._seconds) for _ in range(self._count)]
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def __enter__(self) -> "GradingPool":
        # The first worker starts now, so that what is missing is said before anything is generated.
        self._seats[0].start()
        for seat in self._seats:
            thread = threading.Thread(target=self._work, args=(seat,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def submit(self, item: Item, texts: Sequence[str]) -> "Future[list[Grade]]":
        """Grade samples of an item; returns at once.

        Returns:
            The grades, in the order of the samples.

        Raises:
            UsageError: The pool is not open.
        """
        if not self._threads or self._closing.is_set():
            raise UsageError("the grading pool is not open: submit samples inside its `with` block")
        group = _Group(item, tuple(texts))
        if not texts:
            group.future.set_result([])
        for number in range(len(texts)):
            self._jobs.put((group, number))
        return group.future

    def _work(self, seat: "_Seat") -> None:
        """Give one worker one sample after the other; a thread does nothing else."""
        while (job := self._jobs.get()) is not None:
            group, number = job
            if self._closing.is_set():
                group.future.cancel()
            elif not group.future.done():
                try:
                    grade = seat.grade(group.item, group.texts[number])
                    if self._closing.is_set():
                        group.future.cancel()  # its worker was ended, not the sample
                    else:
                        group.note(number, grade)
                except Exception as error:  # noqa: BLE001  (raised where the future is asked)
                    group.fail(error)

    def close(self, *, wait_for_all: bool = True) -> None:
        """End the workers.

        Args:
            wait_for_all: Grade what was submitted first; otherwise its futures are cancelled.
        """
        if not wait_for_all:
            self._closing.set()
            for seat in self._seats:
                seat.stop()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._closing.set()
        for seat in self._seats:
            seat.stop()
            seat.drop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close(wait_for_all=error is None)
        except BaseException:  # Ctrl-C while the last grades are waited for
            self.close(wait_for_all=False)
            raise


@dataclass
class _Group:
    """Samples that were submitted together, and the grades so far."""

    item: Item
    texts: Sequence[str]
    future: "Future[list[Grade]]" = field(default_factory=Future)
    grades: dict[int, Grade] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, number: int, grade: Grade) -> None:
        """Note one grade; the last one completes the group."""
        with self.lock:
            self.grades[number] = grade
            complete = len(self.grades) == len(self.texts)
        if complete:
            # Somebody may have cancelled it meanwhile.
            with contextlib.suppress(InvalidStateError):
                self.future.set_result([self.grades[each] for each in range(len(self.texts))])

    def fail(self, error: Exception) -> None:
        """Hand on a mistake that is not the sample's."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class _Seat:
    """A place for one worker process, which is replaced when it ends."""

    def __init__(self, grader: Grader, seconds: float) -> None:
        self._setup = (grader, seconds)
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the worker if there is none.

        Raises:
            EsampError: The grader cannot work here.
        """
        with self._lock:
            if self._stopped or (self._process is not None and self._process.poll() is None):
                return
            self.drop()  # it was ended with its last sample, or from outside
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(PACKAGE), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What walks over sets, as sympy does, walks the same way every time.
                env=os.environ | {"PYTHONHASHSEED": "0"},
            )
        answer = self._ask(self._setup, START_SECONDS)
        if answer != "ready":
            self.drop()
        if isinstance(answer, EsampError):
            raise answer
        if answer != "ready":
            raise UsageError(
                f"{type(self._setup[0]).__name__} does not start in a worker process: define it in "
                "a module that can be imported there"
            )

    def grade(self, item: Item, text: str) -> Grade:
        """Grade one sample.

        Raises:
            EsampError: The item cannot be graded.
            RuntimeError: The grader has a mistake.
        """
        self.start()
        answer = self._ask((item, text), self._seconds + GRACE)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Grade):
            return answer
        return TIMED_OUT if answer == -signal.SIGALRM else DIED

    def _ask(self, message: object, seconds: float) -> Any:
        """Send a message and return the reply, or, without one, the exit code of the process."""
        process = self._process
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(message, process.stdin)
            process.stdin.flush()
            if wait([process.stdout.fileno()], timeout=seconds):
                return pickle.load(process.stdout)
            process.kill()
            return -signal.SIGALRM  # its own clock should have ended it
        except (OSError, EOFError, pickle.UnpicklingError):
            process.kill()  # it has ended, perhaps in the middle of its reply
            return process.wait()

    def stop(self) -> None:
        """End the worker for good; may be called while another thread waits for its reply."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def drop(self) -> None:
        """End the worker and close its pipes, when nobody waits for a reply."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                pipe.close()

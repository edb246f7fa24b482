"""What runs in a worker process of a `GradingPool`."""

import os
import pickle
import resource
import signal
import traceback
from typing import Protocol, runtime_checkable

from esamp.errors import EsampError
from esamp.evals.task import Grade, Grader, Item

MEMORY = 4 << 30
"""Bytes of address space: a formula that needs more is no answer."""

# First thing of a worker process. `esamp` itself imports torch, which no grader needs: the package
# is entered without it. Arguments: where the package is, then the search path.
START = """
import sys, types
package = types.ModuleType("esamp")
package.__path__ = [sys.argv[1]]
sys.modules["esamp"] = package
sys.path[:] = sys.argv[2:]
from esamp.evals.graders.worker import main
main()
"""


@runtime_checkable
class Prepared(Protocol):
    """A grader that needs something that may be missing here."""

    def prepare(self) -> None:
        """Load or try it; raises an `EsampError` that says what is missing."""


def main() -> None:
    """Grade what comes in on stdin until it ends.

    The first message is (grader, seconds), the others are (item, text); replies are grades. A
    sample that takes longer than `seconds` ends the process: the kernel does it, whatever runs.
    """
    # Interrupts are for the process that waits for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not come between the replies.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def reply(value: object) -> None:
        pickle.dump(value, replies)
        replies.flush()

    grader, seconds = pickle.load(requests)
    try:
        if isinstance(grader, Prepared):
            grader.prepare()
    except EsampError as error:
        reply(error)
        return
    reply("ready")
    while True:
        try:
            item, text = pickle.load(requests)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = _grade(grader, item, text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply(answer)


def _grade(grader: Grader, item: Item, text: str) -> Grade | Exception:
    """Return a grade, or the mistake of a grader: what is hostile in a text is no mistake."""
    try:
        return grader.grade(item, text)
    except (MemoryError, RecursionError) as error:
        return Grade(correct=False, note=f"too much for the grader: {type(error).__name__}")
    except EsampError as error:
        return error
    except Exception as error:  # noqa: BLE001  (raised again in the process that waits for us)
        told = RuntimeError(f"{type(grader).__name__} failed on item {item.id}: {error!r}")
        told.__notes__ = traceback.format_exception(error)
        return told

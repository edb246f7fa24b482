"""Graders that misbehave, in a module that worker processes can import."""

import os
import sys
import time
from dataclasses import dataclass

from esamp.errors import UsageError
from esamp.evals.task import Grade


@dataclass(frozen=True, kw_only=True)
class Obedient:
    """Does what the text says."""

    def grade(self, item, text):
        verb, _, value = text.partition(" ")
        if verb == "hang":
            while True:
                pass
        if verb == "sleep":
            time.sleep(float(value))
        if verb == "die":
            os._exit(3)
        if verb == "write":
            os.write(1, b"x" * 100_000)
        if verb == "raise":
            raise {"usage": UsageError, "memory": MemoryError, "key": KeyError}[value]("told so")
        if verb == "modules":
            return Grade(correct="torch" not in sys.modules, answer=str(os.getpid()))
        if verb == "order":
            return Grade(correct=True, answer=" ".join({str(number) for number in range(50)}))
        return Grade(correct=text == item.id, answer=text)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Needs what is not there."""

    def prepare(self):
        raise UsageError("install it")

    def grade(self, item, text):
        return Grade(correct=True)

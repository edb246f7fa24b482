"""Tasks by their names on the command line."""

from dataclasses import replace

from esamp.errors import UsageError
from esamp.evals.graders.code import CodeGrader
from esamp.evals.task import Task
from esamp.evals.tasks import (
    aime24,
    aime25,
    creative,
    gpqa_diamond,
    gsm8k,
    humaneval,
    livecodebench_v5,
    math500,
    mbpp,
    open_ended,
)
from esamp.evals.tasks.reasoning_gym import ReasoningGym
from esamp.evals.tasks.rows import RowTask

TASKS = {
    module.TASK.name: module.TASK
    for module in (
        aime24,
        aime25,
        gpqa_diamond,
        livecodebench_v5,
        math500,
        gsm8k,
        humaneval,
        mbpp,
        creative,
        open_ended,
    )
}
GYM = "reasoning-gym:"


def find_task(name: str, *, unsafe_code: bool = False) -> Task:
    """Return a task.

    Args:
        name: One of `TASKS`, or `reasoning-gym:FAMILY`.
        unsafe_code: Run samples that are programs without a sandbox.

    Raises:
        UsageError: There is no such task.
    """
    if name.startswith(GYM) and len(name) > len(GYM):
        return ReasoningGym(family=name.removeprefix(GYM))
    if name not in TASKS:
        raise UsageError(f"task {name!r} is unknown: give one of {', '.join(TASKS)}, {GYM}FAMILY")
    task: RowTask = TASKS[name]
    if unsafe_code and isinstance(task.grader, CodeGrader):
        return replace(task, grader=replace(task.grader, unsafe=True))
    return task

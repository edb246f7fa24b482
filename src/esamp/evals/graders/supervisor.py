"""First process of a sandbox: runs programs one after the other and says what became of them.

It is started by `sandbox.py` as a script, imports the standard library only, and is never imported
by esamp. One JSON line on stdin is a request, one JSON line on stdout is its reply. Each program is
a fork, so that starting one costs a few milliseconds. Three ways to run one:

    script   the program is `__main__`, reads stdin; the reply holds what it printed
    call     a function of the program is called; the reply holds the value, as JSON
    check    checks run after the program, in its names; the reply says whether they came to the end

`script` and `call` cannot be forged: what is expected never enters the sandbox. `check` shares a
process with the program. It has come to the end when a random token is handed back, which the
program's process reads from a pipe after the last check; so neither printing, nor leaving early,
nor an exit status looks like success. What remains: a program written against this very file can
look for that pipe, and an object can claim to be equal to everything.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import random
import resource
import secrets
import select
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TICK = 0.01
"""Seconds between two looks at a program that is silent."""
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_DUMPABLE = 4
WARM = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "io",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
"""Modules that programs import again and again: loaded once, before the forks."""


@dataclass
class Run:
    """A program that is running, and what has been heard of it."""

    pid: int
    token: str
    heard: dict[int, bytearray]
    """What came out of each pipe, by the end that is read; a pipe leaves when it is closed."""
    output: int
    report: int
    status: str = "done"
    texts: dict[int, bytes] = field(default_factory=dict)


def alone() -> bool:
    """Whether all other processes in sight are programs: never outside a sandbox."""
    return os.getpid() == 1


def give_up_rights(settings: Mapping[str, Any]) -> None:
    """Become a user whose processes are counted, and one whose memory programs cannot read."""
    uid = settings["uid"]
    if uid is not None:
        # Linux counts no processes of root, whatever the limit says.
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit(kind: int, value: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def limit_program(settings: Mapping[str, Any]) -> None:
    """Set what the kernel enforces for each process of a program."""
    limit(resource.RLIMIT_AS, settings["memory"])
    limit(resource.RLIMIT_FSIZE, settings["file"])
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)
    if alone():
        limit(resource.RLIMIT_NPROC, settings["processes"] + 1)
    # The soft limit ends the program with a signal that says why, the hard one cannot be caught.
    seconds = settings["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def find(names: Mapping[str, Any], function: str) -> Any:
    """Return the function that is asked for: a method of `Solution` or a plain one."""
    solution = names.get("Solution")
    if solution is not None and hasattr(solution, function):
        return getattr(solution(), function)
    if function not in names:
        raise NameError(f"there is no function {function}")
    return names[function]


def perform(request: Mapping[str, Any], token: int) -> dict[str, Any]:
    """Run the program as it is asked for, and return what is to be reported."""
    # What is used after the program has run is looked up before: a program may replace it.
    dumps, read = json.dumps, os.read
    random.seed(0)  # Python draws a seed after every fork: chance would have a say in the verdict
    if request["recursion"]:
        sys.setrecursionlimit(request["recursion"])
    name = "__main__" if request["how"] == "script" else "solution"
    # Dataclasses and others look for the module that they stand in.
    module = types.ModuleType(name)
    sys.modules[name] = module
    names: dict[str, Any] = vars(module)
    for source in request["names_of"]:
        exec(f"from {source} import *", names)
    try:
        exec(compile(request["program"], "<program>", "exec"), names)
    except SystemExit:
        if request["how"] != "script":
            raise
    if request["how"] == "call":
        value = find(names, request["function"])(*request["arguments"])
        return {"value": dumps(value)}
    if request["how"] == "check":
        exec(compile(request["checks"], "<checks>", "exec"), names)
        return {"token": read(token, 64).decode()}
    # What Python does at its end, which this process will not come to.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return {}


def describe(error: BaseException) -> str:
    """Say in one line what went wrong."""
    return f"{type(error).__name__}: {error}".strip(": ")[:200]


def program(request: Mapping[str, Any], report: int, token: int) -> None:
    """Be the program, in the process that was forked for it; does not return."""
    write, leave, dumps = os.write, os._exit, json.dumps
    try:
        said = perform(request, token)
    except BaseException as error:  # noqa: BLE001  whatever a program raises is its result
        said = {"error": describe(error)}
    data = dumps(said).encode()
    while data:
        data = data[write(report, data) :]
    leave(0)


def start(request: Mapping[str, Any], settings: Mapping[str, Any], private: list[int]) -> Run:
    """Fork a program.

    Args:
        request: What to run, and how.
        settings: Limits.
        private: File descriptors that the program must not have.
    """
    token_in, token_out = os.pipe()
    output_in, output_out = os.pipe()
    report_in, report_out = os.pipe()
    with tempfile.TemporaryFile() as given:
        given.write(request["stdin"].encode())
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.dup2(given.fileno(), 0)
            if request["how"] == "script":
                os.dup2(output_out, 1)
            for descriptor in (*private, token_out, output_in, output_out, report_in):
                os.close(descriptor)
            given.close()
            limit_program(settings)
            program(request, report_out, token_in)
    for descriptor in (token_in, output_out, report_out):
        os.close(descriptor)
    # Drawn after the fork, so that the program's process does not hold it.
    token = secrets.token_hex(16)
    with contextlib.suppress(BrokenPipeError):  # the program is gone already
        os.write(token_out, token.encode())
    os.close(token_out)
    heard = {output_in: bytearray(), report_in: bytearray()}
    return Run(pid=pid, token=token, heard=heard, output=output_in, report=report_in)


def others() -> Iterator[int]:
    """Yield the bytes that each other process of the sandbox holds in memory."""
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:
                # Only what is not shared with a file or with the process it was forked from.
                resident, shared = file.read().split()[1:3]
                yield (int(resident) - int(shared)) * PAGE


def excess(settings: Mapping[str, Any]) -> str | None:
    """Return what all processes together have too much of."""
    if not alone():
        return None
    held = list(others())
    if len(held) > settings["processes"]:
        return "processes"
    return "memory" if sum(held) > settings["memory"] else None


def ended(run: Run) -> bool:
    """Whether the program's first process has ended; it stays, as a zombie, until it is reaped."""
    return os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def hear(run: Run, ready: list[int], most: int) -> None:
    """Read what is there to be read; close a pipe that has ended."""
    for descriptor in ready:
        data = os.read(descriptor, 65536)
        run.heard[descriptor] += data
        if not data or len(run.heard[descriptor]) > most:
            run.status = "output" if data else run.status
            run.texts[descriptor] = bytes(run.heard.pop(descriptor))
            os.close(descriptor)


def attend(run: Run, settings: Mapping[str, Any], requests: int) -> None:
    """Listen to a program until it ends or has to be ended."""
    deadline = time.monotonic() + settings["wall_seconds"]
    look = 0.0
    while run.status == "done" and not ended(run):
        patience = TICK if run.heard else TICK / 10  # nothing is left to say: it ends now
        ready, _, _ = select.select([*run.heard, requests], [], [], patience)
        if requests in ready:
            # Nothing is asked before the reply: whoever asked is gone.
            kill(run.pid)
            os._exit(1)
        hear(run, ready, settings["output"])
        now = time.monotonic()
        if now > deadline:
            run.status = "timeout"
        elif now > look:
            run.status = excess(settings) or run.status
            look = now + 2 * TICK


def kill(pid: int) -> int:
    """End the program with all its processes; return the wait status of the first."""
    if alone():
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # a zombie alone, on macOS
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while alone():
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    return status


def drain(run: Run, most: int) -> None:
    """Read what the program left in its pipes; a process that got away may hold them open."""
    while run.heard and run.status != "output":
        ready, _, _ = select.select(list(run.heard), [], [], 0)
        if not ready:
            break
        hear(run, ready, most)
    for descriptor in list(run.heard):
        run.texts[descriptor] = bytes(run.heard.pop(descriptor))
        os.close(descriptor)


def serve(
    request: Mapping[str, Any], settings: Mapping[str, Any], mine: list[int]
) -> dict[str, Any]:
    """Run one program and return the reply."""
    run = start(request, settings, mine)
    attend(run, settings, mine[0])
    status = kill(run.pid)
    drain(run, settings["output"])
    ending = os.waitstatus_to_exitcode(status)
    if run.status == "done" and ending < 0:
        run.status = "timeout" if -ending == signal.SIGXCPU else "crashed"
    reply: dict[str, Any] = {"status": run.status, "ending": ending}
    reply["stdout"] = run.texts[run.output].decode(errors="replace")
    try:
        said = json.loads(run.texts[run.report])
    except ValueError:  # it left without a report
        said = {}
    # A program can write into that pipe too: nothing but text and one secret is believed.
    said = said if isinstance(said, dict) else {}
    reply["value"] = said["value"] if isinstance(said.get("value"), str) else None
    reply["error"] = said["error"] if isinstance(said.get("error"), str) else None
    reply["passed"] = run.status == "done" and said.get("token") == run.token
    return reply


def main() -> None:
    """Serve requests until nobody asks any more."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.extend(settings["paths"])
    give_up_rights(settings)
    for module in WARM:
        importlib.import_module(module)
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            reply = serve(json.loads(line), settings, [requests, replies, nothing])
            data = json.dumps(reply).encode() + b"\n"
            while data:
                data = data[os.write(replies, data) :]


if __name__ == "__main__":
    main()

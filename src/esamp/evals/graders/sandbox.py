"""Runs programs that nobody has read: in a bubblewrap sandbox, or, if told so, without one.

In the sandbox a program has no network, a read-only file system that holds an interpreter and its
libraries and nothing else of this machine, a small /tmp of its own, its own process tree, a user
without rights, and limits on memory, processor time, time, processes, files and output. What is run
and how the verdict comes out is in `supervisor.py`, which is the sandbox's first process.
"""

import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from esamp.errors import UsageError
from esamp.evals.graders import seccomp

SUPERVISOR = Path(__file__).with_name("supervisor.py")
FIRST_UID = 100_000
"""Users from here on are nobody's on most machines."""
START_SECONDS = 30.0
Status = Literal["done", "timeout", "memory", "output", "processes", "crashed", "lost"]
"""What became of a program; lost: the sandbox itself ended."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use."""

    seconds: int = 6
    """Processor time of each of its processes."""
    memory: int = 1 << 30
    """Bytes of each process, and of what all hold together."""
    processes: int = 32
    """Processes and threads."""
    output: int = 4 << 20
    """Bytes printed."""
    file: int = 16 << 20
    """Bytes of a file."""
    scratch: int = 64 << 20
    """Bytes of all files in /tmp."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UsageError(f"the sandbox limit {name} is {value}: give 1 or more")

    @property
    def wall_seconds(self) -> float:
        """Time by the clock: more than processor time, since the machine may be busy."""
        return 3.0 * self.seconds


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program, and how to run it; see `supervisor.py` for the three ways."""

    how: Literal["script", "call", "check"]
    program: str
    stdin: str = ""
    function: str = ""
    """Called in the program, which may have it as a method of `Solution`."""
    arguments: Sequence[Any] = ()
    """JSON data."""
    checks: str = ""
    """Run after the program, in its names."""
    names_of: Sequence[str] = ()
    """Modules whose names are there without an import."""
    recursion: int = 0
    """Limit on Python's recursion; 0 leaves it as it is."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a program."""

    status: Status
    stdout: str = ""
    value: str | None = None
    """What the function returned, as JSON."""
    error: str | None = None
    """The exception that ended it."""
    passed: bool = False
    """Whether the checks came to their end."""

    @property
    def note(self) -> str:
        """Why it has no result, in a few words."""
        words = {
            "timeout": "timed out",
            "memory": "too much memory",
            "output": "too much output",
            "processes": "too many processes",
            "crashed": "crashed",
            "lost": "ended its sandbox",
        }
        if self.status == "done":
            return self.error or "left before its end"
        return words[self.status]


class Sandbox:
    """A place to run programs one after the other; what one leaves in /tmp, the next finds."""

    def __init__(
        self, limits: Limits, *, way: tuple[str, ...] | None, stderr: IO[bytes] | None = None
    ) -> None:
        """Start it.

        Args:
            limits: What each program may use.
            way: Options of bubblewrap, see `way_in`; None runs programs with limits only, with all
                rights of this process.
            stderr: Where the sandbox complains; None: nowhere.
        """
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = _start(limits, way, self._folder.name if way is None else "/", stderr)

    def run(self, program: Program) -> Outcome:
        """Run one program. Nothing that it does is an exception here."""
        line = json.dumps(asdict(program)).encode() + b"\n"
        reply = self._ask(line, self._limits.wall_seconds + START_SECONDS)
        if reply is None:
            self.close()
            return Outcome(status="lost")
        return Outcome(
            status=reply["status"],
            stdout=reply["stdout"],
            value=reply["value"],
            error=reply["error"],
            passed=reply["passed"],
        )

    def _ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """Send a request and wait for the reply; None where none comes."""
        try:
            _pipe(self._process.stdin).write(line)
            _pipe(self._process.stdin).flush()
        except (OSError, ValueError):  # it has ended, or was closed when it ended before
            return None
        replies, heard = _pipe(self._process.stdout), bytearray()
        deadline = time.monotonic() + seconds
        while not heard.endswith(b"\n"):
            ready, _, _ = select.select([replies], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(replies.fileno(), 1 << 20) if ready else b""
            if not data:
                return None
            heard += data
        reply: dict[str, Any] = json.loads(heard)
        return reply

    def close(self) -> None:
        """End the sandbox and everything in it."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()
        self._folder.cleanup()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_sandbox() -> None:
    """Try once whether programs can be run in a sandbox here.

    Raises:
        UsageError: There is no bubblewrap, or it is not allowed to make a sandbox.
    """
    way_in()


@functools.cache
def way_in() -> tuple[str, ...]:
    """Return bubblewrap's options that work on this machine; see `check_sandbox`."""
    if shutil.which("bwrap") is None:
        raise UsageError(
            "grading code runs programs that nobody has read, and there is no sandbox: install "
            "bubblewrap (apt install bubblewrap), or give --unsafe-code to go without"
        )
    with tempfile.TemporaryFile() as said:
        for way in _ways():
            with Sandbox(Limits(), way=way, stderr=said) as sandbox:
                outcome = sandbox.run(Program(how="script", program="print(6 * 7)"))
            if outcome.stdout == "42\n":
                return way
        said.seek(0)
        reasons = " ".join(said.read().decode(errors="replace").split())[:300]
    raise UsageError(
        f"bubblewrap cannot make a sandbox here ({reasons or 'it does not say why'}): allow it "
        "user namespaces, or give --unsafe-code to go without a sandbox"
    )


def _ways() -> Iterator[tuple[str, ...]]:
    """Yield what to try: as root by becoming somebody else, else in a namespace of users."""
    if os.geteuid() == 0:
        yield ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    yield ("--unshare-user", "--uid", "1000", "--gid", "1000")


def _settings(limits: Limits, way: tuple[str, ...] | None) -> str:
    """Return what the supervisor is told."""
    settings = asdict(limits)
    settings["wall_seconds"] = limits.wall_seconds
    settings["paths"] = _libraries()
    # One user for each process that grades, since processes are counted by user.
    settings["uid"] = FIRST_UID + os.getpid() if way and "CAP_SETUID" in way else None
    return json.dumps(settings)


def _libraries() -> list[str]:
    """Return where installed packages are, numpy among them: programs may use them."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _start(
    limits: Limits, way: tuple[str, ...] | None, folder: str, stderr: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a supervisor: in a sandbox, or, without a way into one, in a folder."""
    python = os.path.realpath(sys.executable)
    # As isolated as with -I, which would not heed the hash seed.
    options = ["-P", "-s", "-S", "-B", "-X", "utf8"]
    command = [python, *options, str(SUPERVISOR), _settings(limits, way)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder}
    # A program that depends on the order of a set gets the same verdict every time.
    environment["PYTHONHASHSEED"] = "0"
    for library in ("OMP", "OPENBLAS", "MKL"):
        environment[f"{library}_NUM_THREADS"] = "1"
    with contextlib.ExitStack() as stack:
        descriptors: list[int] = []
        if way is not None:
            code = seccomp.program()
            if code is not None:
                file = stack.enter_context(tempfile.TemporaryFile())
                file.write(code)
                file.seek(0)
                descriptors.append(file.fileno())
            filters = [word for each in descriptors for word in ("--seccomp", str(each))]
            command = [
                shutil.which("bwrap") or "bwrap",
                *_walls(limits),
                *way,
                *filters,
                "--",
                *command,
            ]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr or subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            pass_fds=descriptors,
            start_new_session=True,
        )


def _walls(limits: Limits) -> list[str]:
    """Return bubblewrap's options: what a program sees of this machine."""
    words = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
    words += " --die-with-parent --new-session --as-pid-1 --hostname sandbox --cap-drop ALL"
    words += f" --proc /proc --dev /dev --perms 1777 --size {limits.file} --tmpfs /dev/shm"
    words += f" --remount-ro /dev --perms 1777 --size {limits.scratch} --tmpfs /tmp"
    words += " --ro-bind /usr /usr --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache"
    options = words.split()
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for shown in (os.path.realpath(sys.base_prefix), *_libraries(), str(SUPERVISOR)):
        if not Path(shown).is_relative_to("/usr"):
            options += _show(Path(shown))
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _show(path: Path) -> list[str]:
    """Return options that show a path of this machine, read-only and to every user."""
    options: list[str] = []
    for parent in reversed(path.parents):
        if parent not in (Path("/"), Path("/tmp")):
            options += ["--perms", "0755", "--dir", str(parent)]
    return [*options, "--ro-bind", str(path), str(path)]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """Return a pipe that was asked for, as the type checker cannot know."""
    assert pipe is not None
    return pipe

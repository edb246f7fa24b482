"""Programs that mean harm find nothing to harm, and get no further than their limits."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandboxes import need_sandbox

from esamp.errors import UsageError
from esamp.evals.graders import sandbox as module
from esamp.evals.graders.sandbox import Limits, Program, Sandbox, way_in

# Processes of this run are found by a limit that no other run has.
MEMORY = (256 << 20) + os.getpid()
QUICK = Limits(seconds=1, memory=MEMORY, processes=16)
WAYS = ["sandbox", "users", "unsafe"]


def way(name):
    if name == "unsafe":
        return None
    need_sandbox()
    return way_in() if name == "sandbox" else list(module._ways())[-1]


@pytest.fixture(params=WAYS)
def anywhere(request):
    with Sandbox(QUICK, way=way(request.param)) as sandbox:
        yield sandbox


@pytest.fixture(params=WAYS[:-1])
def inside(request):
    with Sandbox(QUICK, way=way(request.param)) as sandbox:
        yield sandbox


def script(program, stdin=""):
    return Program(how="script", program=program, stdin=stdin)


def check(program, checks="assert f() == 1"):
    return Program(how="check", program=program, checks=checks)


def still_works(sandbox):
    return sandbox.run(script("print(6 * 7)")).stdout == "42\n"


def processes_of(marker):
    """Processes of this machine whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if marker.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def test_a_script_reads_and_prints(anywhere):
    outcome = anywhere.run(script("print(input() + '!')\nimport sys\nsys.exit(0)", "hé\n"))
    assert (outcome.status, outcome.stdout, outcome.error) == ("done", "hé!\n", None)


def test_a_function_is_called(anywhere):
    program = "class Solution:\n    def f(self, a, b): return (a, {'b': b})\ndef g(x): return x"
    call = Program(how="call", program=program, function="f", arguments=[[1], "x"])
    assert json.loads(anywhere.run(call).value) == [[1], {"b": "x"}]
    call = Program(how="call", program=program, function="g", arguments=[None])
    assert anywhere.run(call).value == "null"
    call = Program(how="call", program=program, function="h")
    assert "no function h" in anywhere.run(call).error


def test_checks_that_hold_pass_and_others_do_not(anywhere):
    assert anywhere.run(check("def f(): return 1")).passed
    outcome = anywhere.run(check("def f(): return 2"))
    assert (outcome.passed, outcome.error) == (False, "AssertionError")


@pytest.mark.parametrize("name", WAYS)
def test_what_hangs_on_chance_comes_out_the_same_every_time(name):
    words = "{str(number) for number in range(50)}"
    program = f"import random\nprint(list({words}), random.random())"
    said = set()
    for _ in range(2):
        with Sandbox(QUICK, way=way(name)) as sandbox:
            said |= {sandbox.run(script(program)).stdout for _ in range(2)}
    assert len(said) == 1
    assert "49" in said.pop()


@pytest.mark.parametrize("name", WAYS)
def test_programs_find_no_module_of_the_folders_around_them(name):
    program = "import sys\nprint(sys.flags.safe_path, sys.flags.no_user_site, sys.path)"
    with Sandbox(QUICK, way=way(name)) as sandbox:
        safe, no_user, path = sandbox.run(script(program)).stdout.split(maxsplit=2)
    assert (safe, no_user) == ("True", "1")
    assert str(module.SUPERVISOR.parent) not in path
    assert "''" not in path


FORGERIES = {
    "exit": "import sys\nsys.exit(0)",
    "exit when called": "import sys\ndef f(): sys.exit(0)",
    "leave": "import os\nos._exit(0)",
    "leave when called": "import os\ndef f(): os._exit(0)",
    "print": "print('passed'); print({'token': ''})",
    "write everywhere": 'import os\nfor n in range(64):\n  try: os.write(n, b\'{"token": ""}\')\n'
    "  except OSError: pass\nos._exit(0)",
    "no token": "import os\ndef f():\n  os.read = lambda *_: b''\n  return 2",
    "close everything": "import os\ndef f():\n  os.closerange(0, 64)\n  return 1",
    "kill the parent": "import os\ndef f():\n  os.kill(os.getpid(), 9)",
    "raise": "def f(): raise BaseException",
    "hostile words": "class E(Exception):\n  def __str__(self): raise E\ndef f(): raise E",
    "syntax": "def f(:",
    "nothing": "",
    "recursion": "def f(): return f()",
    "deep": "f = lambda: " + "(" * 5000 + ")" * 5000,
    "null": "\x00",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_success_is_not_forged(anywhere, name):
    assert not anywhere.run(check(FORGERIES[name])).passed
    assert still_works(anywhere)


def test_functions_of_the_harness_may_be_replaced_and_a_right_program_still_passes(anywhere):
    program = "import os, json\nos.read = os.write = json.dumps = None\ndef f(): return 1"
    assert anywhere.run(check(program)).passed


LIMITS = {
    "loop": ("while True: pass", "timeout"),
    "sleep": ("import time\ntime.sleep(60)", "timeout"),
    "ignore the clock": (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
        ("timeout", "crashed"),
    ),
    "print": ("while True: print('x' * 10_000)", "output"),
    "ten gigabytes": ("x = bytearray(10 << 30)", "done"),
    "segfault": ("import ctypes\nctypes.string_at(0)", "crashed"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_hold_everywhere(anywhere, name):
    program, expected = LIMITS[name]
    start = time.monotonic()
    outcome = anywhere.run(script(program))
    assert outcome.status in expected
    assert outcome.status != "done" or "MemoryError" in outcome.error
    assert time.monotonic() - start < 20
    assert still_works(anywhere)


def test_a_fork_bomb_ends(inside):
    program = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    start = time.monotonic()
    assert inside.run(script(program)).status in ("processes", "timeout")
    assert time.monotonic() - start < 20
    assert still_works(inside)


def test_processes_that_stay_are_ended_with_their_program(inside):
    program = (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    time.sleep(60)\n  os._exit(0)\nos.wait()"
    )
    start = time.monotonic()
    assert inside.run(script(program)).status == "done"
    assert time.monotonic() - start < 20
    count = "import os\nprint(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert inside.run(script(count)).stdout == "2\n"


def test_memory_of_many_processes_is_added_up(inside):
    program = (
        "import os, time\nfor n in range(6):\n  if os.fork() == 0:\n    x = b'x' * (100 << 20)\n"
        "    time.sleep(60)\ntime.sleep(60)"
    )
    assert inside.run(script(program)).status == "memory"
    assert still_works(inside)


def test_killing_everything_kills_nobody_else(inside):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for signal in (9, 2, 15, 19):
            program = (
                f"import os\nfor pid in (1, -1, os.getppid(), {os.getpid()}, {bystander.pid}):\n"
                f"  try: os.kill(pid, {signal})\n  except OSError: pass\nprint('alive')"
            )
            assert inside.run(script(program)).status in ("done", "crashed", "timeout")
            assert still_works(inside)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_nothing_is_written_outside_tmp(inside):
    program = (
        "import os\nfor folder, folders, _ in os.walk('/'):\n"
        "  if folder in ('/tmp', '/proc', '/dev/shm') or folder.count('/') > 3: folders.clear()\n"
        "  else:\n"
        "    try: open(folder + '/esamp-was-here', 'w').close(); print(folder)\n"
        "    except OSError: pass"
    )
    outcome = inside.run(script(program))
    assert (outcome.status, outcome.stdout) == ("done", "")


def test_files_of_the_host_are_not_there_not_even_by_links(inside, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    places = [str(secret), str(Path.home() / ".profile"), "/etc/passwd", "/etc/shadow", __file__]
    program = (
        f"import os\nfor n, place in enumerate({places!r}):\n"
        "  link = f'/tmp/link{n}'\n  os.symlink(place, link)\n"
        "  for path in (place, link, '/proc/1/root' + place, '/proc/self/root/../' + place):\n"
        "    try: print(open(path).read())\n    except OSError: pass\n"
        "    try: open(path, 'w').write('x')\n    except OSError: pass\n"
        "print(os.environ)"
    )
    outcome = inside.run(script(program))
    assert outcome.stdout.count("\n") == 1
    assert secret.read_text() == "secret"
    assert set(os.environ) & {"HF_TOKEN", "USER", "SHELL"} & set(outcome.stdout.split("'")) == set()


def test_there_is_no_network(inside):
    program = (
        "import socket\nprint([name for _, name in socket.if_nameindex()], flush=True)\n"
        "socket.create_connection(('127.0.0.1', 22), timeout=1)"
    )
    outcome = inside.run(script(program))
    assert outcome.stdout in ("['lo']\n", "['lo', 'sit0']\n", "[]\n")
    assert outcome.error is not None


DENIED = {
    "memory without a process": "import os\nos.memfd_create('x')",
    "the supervisor's memory": "open('/proc/1/mem', 'rb')",
    "the supervisor's pipes": "import os\nos.open('/proc/1/fd/1', os.O_WRONLY)",
    "another user": "import os\nos.setuid(0)\nassert os.getuid() == 0 and open('/etc/x', 'w')",
    "a device": "import os\nos.mknod('/tmp/x', 0o60666, os.makedev(8, 0))\nopen('/tmp/x')",
    "a big file": "open('/tmp/x', 'wb').write(b'x' * (20 << 20))",
    "many files": "for n in range(20): open(f'/tmp/{n}', 'wb').write(b'x' * (10 << 20))",
    "many open files": "x = [open('/tmp/x', 'w') for _ in range(100)]",
}


@pytest.mark.parametrize("name", DENIED)
def test_what_no_program_needs_is_denied(inside, name):
    outcome = inside.run(script(DENIED[name]))
    assert outcome.status == "done"
    assert outcome.error.split(":")[0] in ("OSError", "PermissionError")


@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",
        "shmget(0, 1 << 30, 0o1600)",
        "ptrace(16, 1, 0, 0)",
        "mount(0, b'/tmp', b'tmpfs', 0, 0)",
    ],
)
def test_system_calls_are_filtered(inside, call):
    program = (
        f"import ctypes\nlibrary = ctypes.CDLL(None, use_errno=True)\n"
        f"print(library.{call}, ctypes.get_errno())"
    )
    assert inside.run(script(program)).stdout == "-1 1\n"


def test_threads_and_installed_packages_work(inside):
    program = (
        "import threading, numpy\nt = threading.Thread(target=lambda: print(numpy.ones(3).sum()))\n"
        "t.start()\nt.join()"
    )
    assert inside.run(script(program)).stdout == "3.0\n"


@pytest.mark.parametrize("name", WAYS)
def test_nothing_is_left_behind(name):
    program = "import os, time\nif os.fork() == 0: time.sleep(60)"
    with Sandbox(QUICK, way=way(name)) as sandbox:
        pid = sandbox._process.pid
        sandbox.run(script(program))
        assert processes_of(str(MEMORY))
    assert not Path(f"/proc/{pid}").exists()
    end = time.monotonic() + 5  # what is killed may be there for a moment
    while processes_of(str(MEMORY)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not processes_of(str(MEMORY))


@pytest.mark.parametrize("name", WAYS)
def test_a_sandbox_ends_with_the_process_that_asked(name):
    command = way(name)
    limits = Limits(seconds=50, memory=MEMORY)
    code = (
        "from esamp.evals.graders.sandbox import *\n"
        f"with Sandbox({limits!r}, way={command!r}) as box:\n"
        "  print(1, flush=True)\n"
        "  box.run(Program(how='script', program='import time\\ntime.sleep(100)'))"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert asker.stdout.read(1) == b"1"
    time.sleep(0.5)
    assert processes_of(str(MEMORY))
    asker.kill()
    asker.wait()
    asker.stdout.close()
    for _ in range(100):
        if not processes_of(str(MEMORY)):
            break
        time.sleep(0.05)
    assert not processes_of(str(MEMORY))


def test_without_bubblewrap_it_says_what_to_do(monkeypatch):
    way_in.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match=r"apt install bubblewrap.*--unsafe-code"):
        way_in()
    way_in.cache_clear()


def test_a_bubblewrap_that_may_not_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no permissions' >&2\nexit 1\n")
    broken.chmod(0o755)
    way_in.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UsageError, match=r"no permissions.*--unsafe-code"):
        way_in()
    way_in.cache_clear()


@pytest.mark.parametrize("name", ["seconds", "memory", "processes", "output", "file", "scratch"])
def test_limits_are_positive(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        Limits(**{name: 0})

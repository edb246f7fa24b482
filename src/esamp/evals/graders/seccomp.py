"""System calls that no program under test needs, as a filter that Linux applies (seccomp).

It closes what limits do not: memory that belongs to no process (memfd, System V), namespaces of the
program's own, and parts of the kernel that few programs touch. Source: ours; the numbers are those
of Linux's system call tables.
"""

import platform
import struct

ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38
LOAD, EQUAL, ABOVE_OR_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in what the filter sees of a call (struct seccomp_data)."""
CLONE_NEWUSER = 0x10000000
X32 = 0x40000000
"""x86-64 has a second table from this number on."""

# Name: number on x86-64, on arm64.
DENIED = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Encode one instruction; `yes` and `no` are how many to skip after a comparison."""
    return struct.pack("=HBBI", code, yes, no, value)


def program(machine: str | None = None) -> bytes | None:
    """Return the filter in the form that bubblewrap reads, or None for an unknown processor.

    Args:
        machine: Processor as `platform.machine()` names it; None is this one.
    """
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    column, architecture = known
    code = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, architecture, yes=1),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
        _instruction(ABOVE_OR_EQUAL, X32, no=1),
        _instruction(RETURN, ERROR | ENOSYS),
        # The C library goes on with clone, whose flags can be looked at.
        _instruction(EQUAL, CLONE3[column], no=1),
        _instruction(RETURN, ERROR | ENOSYS),
    ]
    for numbers in DENIED.values():
        code.append(_instruction(EQUAL, numbers[column], no=1))
        code.append(_instruction(RETURN, ERROR | EPERM))
    code += [
        _instruction(EQUAL, CLONE[column], no=3),
        _instruction(LOAD, FIRST_ARGUMENT),
        _instruction(ANY_BIT, CLONE_NEWUSER, no=1),
        _instruction(RETURN, ERROR | EPERM),
        _instruction(RETURN, ALLOW),
    ]
    return b"".join(code)

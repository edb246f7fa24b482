"""The filter of system calls, run by hand: a program for a small machine."""

import struct

import pytest

from esamp.evals.graders import seccomp

ALLOWED, DENIED, KILLED = seccomp.ALLOW, seccomp.ERROR | seccomp.EPERM, seccomp.KILL
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}


def decide(machine, number, argument=0, architecture=None):
    """Interpret the filter as the kernel does."""
    data = struct.pack("=iIQQ", number, architecture or ARCHITECTURES[machine], 0, argument)
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    accumulator, place = 0, 0
    while True:
        operation, yes, no, value = code[place]
        place += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}
        place += yes if holds[operation] else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_named_calls_are_denied_and_others_allowed(machine):
    denied = {numbers[COLUMN[machine]] for numbers in seccomp.DENIED.values()}
    clone, clone3 = seccomp.CLONE[COLUMN[machine]], seccomp.CLONE3[COLUMN[machine]]
    for number in range(470):
        if number == clone3:
            assert decide(machine, number) == seccomp.ERROR | seccomp.ENOSYS
        else:
            assert decide(machine, number) == (DENIED if number in denied else ALLOWED), number
    assert decide(machine, clone, 17) == ALLOWED
    assert decide(machine, clone, 17 | seccomp.CLONE_NEWUSER) == DENIED


def test_other_tables_of_the_same_processor_are_closed():
    assert decide("x86_64", 1, architecture=0x40000003) == KILLED
    assert decide("x86_64", seccomp.X32 + 1) == seccomp.ERROR | seccomp.ENOSYS


def test_an_unknown_processor_has_no_filter():
    assert seccomp.program("vax") is None

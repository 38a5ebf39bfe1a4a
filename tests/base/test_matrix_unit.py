"""Which matrix unit a CPU has, and whether this process may use it."""

from __future__ import annotations

import errno

import pytest

from ondevice.base import machine
from ondevice.base.matrix_unit import matrix_unit, permission

BOTH = {"avx512f", "avx512_bf16", "amx_tile", "amx_bf16"}


@pytest.mark.parametrize(
    "flags, code, name, why",
    [
        (BOTH, 0, "amx", "the CPU has amx_tile and amx_bf16 and avx512_bf16"),
        (
            BOTH,
            errno.ENOSPC,
            "dpbf16",
            "AMX cannot be used: a thread's signal stack is too small for its tiles (ENOSPC); ",
        ),
        (BOTH, errno.EPERM, "dpbf16", "AMX cannot be used: the system does not permit its tiles (EPERM); "),
        (BOTH, errno.EINVAL, "dpbf16", "AMX cannot be used: Invalid argument; the CPU has avx512_bf16"),
        (BOTH - {"avx512_bf16"}, 0, "", "the CPU has no avx512_bf16"),
        (BOTH - {"amx_bf16"}, 0, "dpbf16", "the CPU has avx512_bf16"),
        ({"avx512f", "amx_tile"}, 0, "", "the CPU has no avx512_bf16"),
    ],
)
def test_by_flags_and_permission(flags: set[str], code: int, name: str, why: str) -> None:
    unit = matrix_unit(flags, lambda: code)
    assert unit.name == name and unit.why.startswith(why)


def test_permission_is_asked_for_only_where_there_are_tiles() -> None:
    def never() -> int:
        raise AssertionError("it was asked")

    assert matrix_unit({"avx512_bf16"}, never).name == "dpbf16" and not matrix_unit(set(), never).name


def test_of_this_machine() -> None:
    """The system call itself: refused where the CPU has no tiles, granted where it has."""
    flags = machine.cpu_flags()
    if not {"amx_tile", "amx_bf16"} <= flags:
        assert permission() != 0
    assert (matrix_unit().name != "") == ("avx512_bf16" in flags)

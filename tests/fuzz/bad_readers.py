"""Readers that do what no reader may, each when there is an exclamation mark in its input."""

import contextlib
import ctypes
import logging
import time
import warnings

from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.reader import Reader, holds
from ondevice.errors import CheckpointError, OnDeviceError


def refuses(data, _):
    if b"!" not in data:
        raise CheckpointError("there is no mark.", where="f", fix="put one there")


def wrong_exception(_):
    return {}["key"]


def long_message(_):
    raise ValueError("x" * 600)  # errors of ours are cut and escaped as they are made


def unprintable(_):
    raise ValueError("it holds \udc80")


def no_place(_):
    raise CheckpointError("something is wrong.")


def slow(_):
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


def memory(_):
    return bytes(bytearray(80 << 20))


def too_much_memory(_):
    return bytearray(8 << 30)


def warns(_):
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)


def logs(_):
    logging.getLogger("ondevice.x").warning("%s", "\ud800")


def breaks(_):
    holds(False, "what was read is no picture")


def dies(_):
    ctypes.string_at(0)


def hangs(_):
    time.sleep(60)  # takes no CPU, as a wait in C


def bad(act):
    def read(data, folder):
        refuses(data, folder)
        act(data)

    return Reader(act.__name__, lambda: [b"a", b"b!c"], havoc, read, (OnDeviceError, ValueError), memory=16 << 20)


QUIET = (wrong_exception, long_message, unprintable, no_place, slow, warns, logs, breaks)
READERS = tuple(bad(act) for act in (*QUIET, memory, too_much_memory, dies, hangs))

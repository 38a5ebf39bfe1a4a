"""Several processes of a run: whether as many are there as were asked for, and what is said where one is lost.

A process that ends takes its connections with it, so that the others fail at once in what they wait for together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import distributed

from ondevice.errors import ProcessError, UsageError

TOGETHER = "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m ondevice.train ..."
"""What starts several processes of a CPU."""
_TRANSPORTS = ("gloo", "NCCL", "nccl", "Connection closed by peer", "Connection reset by peer", "process group")
_LATE = ("Timed out", "timed out", "timeout")


def check_started(processes: int, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError where `accelerate launch` was to start several processes and has started one: of a CPU it
    leaves that to MPI, and says nothing."""
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if processes == 1 and launched and "WORLD_SIZE" not in environment:
        what = "accelerate has started one process of several (of a CPU it leaves the others to MPI)."
        raise UsageError(what, where="accelerate launch", fix=f"use {TOGETHER}")


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes this run has, as its launcher says."""
    count = environment.get("WORLD_SIZE", "")
    return int(count) if count.isdecimal() else 1


@contextmanager
def in_company(processes: int) -> Iterator[None]:
    """Raises ProcessError where what is done in the block needs another process that is lost."""
    try:
        yield
    except RuntimeError as error:
        if is_lost(error, processes):
            said, again = _first_line(error), "start all of them again with --resume_from_checkpoint latest"
            if any(word in said for word in _LATE):
                what = f"another process of this run has not answered within --ddp_timeout ({said})."
                fix = f"see whether it is stopped, or give it longer, and {again}"
                raise ProcessError(what, where="train", fix=fix) from error
            what = f"another process of this run has ended, or cannot be reached ({said})."
            raise ProcessError(what, where="train", fix=f"see what it said, and {again}") from error
        raise


def is_lost(error: BaseException, processes: int) -> bool:
    """Whether an error says that another of several processes is lost."""
    return processes > 1 and isinstance(error, RuntimeError) and _is_of_connections(error)


def _is_of_connections(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in _TRANSPORTS)


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

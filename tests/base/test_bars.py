"""Bars go on, whatever becomes of a process that was forked."""

import os
import signal

import pytest

from ondevice.base.bars import tqdm


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed is forked")
def test_a_child_that_is_killed_under_the_lock_leaves_it_free() -> None:
    if child := os.fork():
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert tqdm.get_lock().acquire(timeout=1)
        tqdm.get_lock().release()
    else:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

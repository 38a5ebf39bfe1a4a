"""A driver that never answers: signals are heard, the session says so, and the process can end."""

import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, three_steps

from ondevice.run import waiting
from ondevice.run.session import GRACE, Session
from ondevice.run.waiting import Waiter


@pytest.fixture
def waiter():
    return Waiter()


def test_results_and_errors_come_back(waiter):
    assert [waiter(lambda n=n: n * n) for n in range(3)] == [0, 1, 4]
    with pytest.raises(ZeroDivisionError):
        waiter(lambda: 1 / 0)
    assert waiter.idle() and not waiting.stuck()


def test_a_call_that_does_not_end_is_interrupted_and_known(waiter):
    end = threading.Event()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            waiter(end.wait)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not waiter.idle() and waiting.stuck()
    assert not waiter.within(lambda: None, 0.01)  # it stands behind
    end.set()
    assert waiter.within(lambda: None, 60) and waiter.idle() and not waiting.stuck()
    assert waiter(lambda: 7) == 7


def test_nothing_is_kept_alive_and_the_thread_ends():
    class Buffer:
        pass

    before = set(threading.enumerate())
    waiter, buffer = Waiter(), Buffer()
    gone = weakref.ref(buffer)
    waiter(lambda held=buffer: None)
    (thread,) = set(threading.enumerate()) - before
    del buffer
    waiter(lambda: None)
    assert gone() is None
    del waiter
    thread.join(60)
    assert not thread.is_alive()


class Stuck(NullDevice):
    """Interrupted in a launch; what was launched before may go on for ever."""

    asked = None

    def launch(self, bound, grid, group):
        raise KeyboardInterrupt

    def settle(self, seconds):
        self.asked = seconds
        return False


def test_a_session_does_not_wait_for_a_kernel_that_never_ends(caplog):
    device, plan = Stuck(), three_steps(8)
    with pytest.raises(KeyboardInterrupt):
        Session(FakeBundle(plan), device).run("net", {"x": np.ones(8, np.float32)}, width=8)
    assert device.asked == GRACE and "finish" not in device.log
    assert caplog.messages == ["null still runs a kernel of net that does not end; it is left alone"]


def test_the_command_line_leaves_a_driver_that_never_answers():
    """The interpreter's end would wait for it: C code that holds a lock of the driver,
    here a thread that is no daemon."""
    code = """
        import argparse, sys, threading
        from ondevice import cli
        from ondevice.run.waiting import Waiter
        waiter = Waiter()

        def run(args):
            print("said")
            threading.Thread(target=threading.Event().wait).start()  # not a daemon
            waiter._give(threading.Event().wait)
            raise KeyboardInterrupt

        sys.exit(cli._guarded(lambda: argparse.Namespace(run=run)))
    """
    source = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout) == (130, "said\n")
    assert done.stderr == "interrupted; nothing half-written was left behind\n"


@pytest.mark.device
def test_an_endless_kernel_is_left():
    """Ctrl-C ends the process in seconds, whatever the device does."""
    code = """
        import sys, threading, _thread
        import numpy as np
        from run.small_plans import KERNELS, FakeBundle, make_plan
        from ondevice import cli
        from ondevice.run.opencl import choose_device
        from ondevice.run.session import Session

        endless = "while (x[i] > 0) *(volatile __global float*)(y + i) += 1;\\n  if (i < n)"
        KERNELS["root"] = KERNELS["root"].replace("if (i < n)", endless)

        def run(args):
            plan = make_plan(8, [("root", ("x",), "y", ())])
            device = choose_device()
            launch = device.launch
            device.launch = lambda *call: (launch(*call), print("begun", flush=True))[0]
            Session(FakeBundle(plan), device).run("net", {"x": np.ones(8, np.float32)}, width=8)

        import argparse
        sys.exit(cli._guarded(lambda: argparse.Namespace(run=run)))
    """
    source = "import sys; sys.path.insert(0, 'tests')\n" + "\n".join(line[8:] for line in code.splitlines())
    words = [sys.executable, "-c", source]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=_hears_interrupts,
    ) as running:
        assert running.stdout.readline() == "begun\n", running.stderr.read()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "does not end; it is left alone" in said and "interrupted; nothing half-written" in said


def _hears_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)

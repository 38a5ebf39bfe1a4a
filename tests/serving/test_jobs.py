"""The queue: order, bounds, stopping, and what is said of it."""

import threading
import time

import numpy as np
import pytest

from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.request import Request
from ondevice.errors import PlanError
from ondevice.serving import jobs as module
from ondevice.serving.jobs import DONE, DRAWING, FAILED, STOPPED, WAITING, Job, Jobs, Stop


def job(prompt="a cat", **fields):
    return Job(Request(prompt=prompt), Way(), prompt=prompt, size=(64, 64), **fields)


def rows(jobs):
    return [(row["prompt"], row["state"], row["place"]) for row in jobs.state()["jobs"]]


def test_jobs_are_drawn_in_order_and_say_their_places():
    jobs = Jobs()
    for name in "abc":
        assert jobs.add(job(name))
    assert rows(jobs) == [("a", WAITING, 1), ("b", WAITING, 2), ("c", WAITING, 3)]
    assert jobs.take().prompt == "a"
    assert rows(jobs) == [("a", DRAWING, 0), ("b", WAITING, 1), ("c", WAITING, 2)]
    jobs.finish(DONE)
    jobs.take()
    jobs.finish(FAILED, PlanError("too large.", where="memory", fix="use a smaller one"))
    assert rows(jobs) == [("a", DONE, 0), ("b", FAILED, 0), ("c", WAITING, 1)]
    assert jobs.state()["jobs"][1]["error"] == {
        "error": "PlanError", "detail": "memory: too large. Fix: use a smaller one.",
        "where": "memory", "what": "too large.", "fix": "use a smaller one", "exit_code": 8,
    }  # fmt: skip


def test_the_queue_is_bounded_and_so_is_what_is_remembered(monkeypatch):
    jobs = Jobs(most=2)
    assert [jobs.add(job()) for _ in range(3)] == [True, True, False]
    monkeypatch.setattr(module, "REMEMBERED", 3)
    for number in range(5):
        first = jobs.take()
        jobs.finish(DONE)
        assert jobs.add(job(str(number)))
        assert first.request is None  # it may hold pictures
    assert [row["state"] for row in jobs.state()["jobs"]] == [DONE] * 3 + [WAITING] * 2


def test_stopping():
    jobs = Jobs()
    first, second = job("a"), job("b")
    jobs.add(first), jobs.add(second)
    assert jobs.take() is first
    jobs.report(step=1, steps=9)
    assert jobs.stop(second.id) and second.state == STOPPED and jobs.waiting() == 0
    assert jobs.stop(first.id) and first.state == DRAWING
    with pytest.raises(Stop):
        jobs.report(step=2)
    jobs.finish(STOPPED)
    assert not jobs.stop(first.id) and not jobs.stop("none of that name")
    jobs.stop_drawing()  # nothing is drawn: nothing happens
    assert jobs.find(first.id) is first and jobs.find("none") is None


def test_closing_drops_what_waits_and_takes_nothing_more():
    jobs = Jobs()
    jobs.add(job("a")), jobs.add(job("b")), jobs.add(job("c"))
    jobs.take()
    assert jobs.close() == 3 and not jobs.add(job()) and jobs.drawing() is None
    assert {row["state"] for row in jobs.state()["jobs"]} == {STOPPED} and jobs.state()["closed"]
    jobs.finish(DONE)  # the drawing thread finds nothing to end
    assert {row["state"] for row in jobs.state()["jobs"]} == {STOPPED}


def test_taking_waits_for_a_job_and_every_change_is_told():
    told = []
    jobs, taken = Jobs(lambda: told.append(1)), []
    thread = threading.Thread(target=lambda: taken.append(jobs.take()))
    thread.start()
    jobs.add(job("late"))
    thread.join(10)
    assert taken[0].prompt == "late" and len(told) == 2
    jobs.report(step=1, steps=2)
    jobs.finish(DONE)
    assert len(told) == 4


def test_the_time_that_is_left(monkeypatch):
    """Two pictures of four calls: after 3 s in the first call three more are to come, and all of the second picture."""
    jobs, now = Jobs(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = job(count=2)
    jobs.add(one)
    jobs.take()
    assert jobs.seconds_left(one) is None
    now[0] = 103.0
    jobs.report(step=1, steps=4)
    assert jobs.seconds_left(one) == pytest.approx(3 * 3 + 4 * 3) and one.progress() == pytest.approx(1 / 8)
    jobs.learn((64, 64), 2.0)  # what the decoder takes
    assert jobs.seconds_left(one) == pytest.approx(9 + 2 + 12 + 2)
    now[0] = 130.0
    jobs.report(step=4, steps=4, picture=1)
    assert jobs.seconds_left(one) == pytest.approx(2.0) and one.progress() == 1.0


def test_a_job_keeps_no_picture_when_it_is_over():
    jobs, one = Jobs(), job()
    one.request = Request(prompt="", image=np.zeros((8, 8, 3), np.uint8))
    jobs.add(one)
    jobs.take()
    jobs.finish(DONE)
    assert one.request is None and one.progress() == 1.0

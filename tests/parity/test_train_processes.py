"""A run in two processes: started by the command that the page names, the steps of one, and never a hang."""

import json
import signal

import pytest
from parity.test_train import SIDE, common, few_threads, pictures, train  # noqa: F401

from benchmarks import train_processes as two
from ondevice.errors import ProcessError, UsageError
from ondevice.train.records import steps_of

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")
ASKED = {"resolution": SIDE, "checkpointing_steps": 2, "learning_rate": 1e-3, "train_batch_size": 2}


def test_two_processes(pictures, tmp_path):  # noqa: F811
    """They take the steps of one with twice the batch; where one is killed, the other ends, too; they go on, and Ctrl-C
    ends both, with a checkpoint."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert train("lora", *common(pictures, alone), "train_batch_size", 4, "max_train_steps", 4) == 0
    with two.running(2, two.words(pictures, out, **ASKED, max_train_steps=100_000)) as run:
        losses = two.reached(run, out, 3)
        both = two.workers(run)
        assert sorted(both) == [0, 1]
        both[1].send_signal(signal.SIGKILL)
        said, _ = run.communicate(timeout=60)
        assert run.returncode != 0 and "Signal 9" in said
        assert not any(one.is_running() for one in both.values())
    expected = [row["loss"] for row in steps_of(alone / "training_log.jsonl", 4)]
    assert losses[1] == pytest.approx(expected[0], rel=1e-7)
    assert [losses[step] for step in (2, 3)] == pytest.approx(expected[1:3], rel=1e-4)
    for path in out.glob("checkpoint-*"):
        if path.name != "checkpoint-2":
            path.rename(tmp_path / path.name)
    asked = ASKED | {"checkpointing_steps": 1000}
    with two.running(2, two.words(pictures, out, **asked, max_train_steps=100_000)) as run:
        found = two.reached(run, out, 4)
        both = two.workers(run)
        for one in (run, *both.values()):  # as a terminal does
            one.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 1 and not any(one.is_running() for one in both.values())
    assert [*found][:4] == [1, 2, 3, 4] and found[3] == losses[3], "not the bits of the run that was killed"
    assert found[4] == pytest.approx(expected[3], rel=1e-4)
    done = max(two.steps(out))
    assert f"stopped after step {done}; --resume_from_checkpoint latest goes on" in said
    assert json.loads((out / f"checkpoint-{done}" / "state.json").read_text())["step"] == done


def test_a_process_that_does_not_answer(pictures, tmp_path):  # noqa: F811
    """The others give it up, and leave a checkpoint."""
    asked = ASKED | {"checkpointing_steps": 1000, "ddp_timeout": 3}
    with two.running(2, two.words(pictures, tmp_path, **asked, max_train_steps=100_000)) as run:
        two.reached(run, tmp_path, 2)
        both = two.workers(run)
        both[1].send_signal(signal.SIGSTOP)
        both[0].wait(60)
        both[1].send_signal(signal.SIGKILL)  # the launcher does so after half a minute
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "exitcode  : 18" in said
    assert "train: another process of this run has not answered within --ddp_timeout ([" in said
    done = max(two.steps(tmp_path))
    assert f"stopped after step {done}; --resume_from_checkpoint latest goes on" in said
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{done}"]


def test_a_launcher_that_starts_one_of_several():
    """As `accelerate launch --cpu --num_processes 2` does without MPI."""
    from ondevice.train.processes import check_started

    launched = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with pytest.raises(UsageError) as caught:
        check_started(1, launched)
    assert str(caught.value) == (
        "accelerate launch: accelerate has started one process of several (of a CPU it leaves the others to MPI). Fix: "
        "use ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m ondevice.train ...."
    )
    check_started(1, {"ACCELERATE_MIXED_PRECISION": "no"})  # of one
    check_started(1, {"MASTER_ADDR": "127.0.0.1"})  # not by accelerate
    check_started(2, launched | {"WORLD_SIZE": "2"})


def test_how_many_were_launched():
    from ondevice.train.processes import launched

    assert [launched(one) for one in ({}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "many"})] == [1, 4, 1]


def test_a_process_that_is_lost():
    from ondevice.train.processes import in_company

    text = "[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711\nmore"
    with pytest.raises(ProcessError) as caught, in_company(2):
        raise RuntimeError(text)
    assert str(caught.value) == (
        "train: another process of this run has ended, or cannot be reached ([/gloo/transport/tcp/pair.cc:547] "
        "Connection closed by peer [127.0.0.1]:4711). Fix: see what it said, and start all of them again with "
        "--resume_from_checkpoint latest."
    )
    assert caught.value.exit_code == 18
    late = "[unbound_buffer.cc:78] gloo: Timed out waiting 8000ms for recv operation to complete"
    with pytest.raises(ProcessError) as caught, in_company(2):
        raise RuntimeError(late)
    assert str(caught.value) == (
        f"train: another process of this run has not answered within --ddp_timeout ({late}). Fix: see whether it is "
        "stopped, or give it longer, and start all of them again with --resume_from_checkpoint latest."
    )
    for processes, error in ((1, text), (2, "mat1 and mat2 shapes cannot be multiplied")):
        with pytest.raises(RuntimeError, match=error[:9].replace("[", r"\[")), in_company(processes):
            raise RuntimeError(error)

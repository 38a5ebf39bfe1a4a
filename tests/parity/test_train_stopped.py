"""Ctrl-C in a training: the steps that were done are kept, whole, and the run goes on from them."""

import signal
import sys

import pytest
from parity import test_train
from parity.test_train import CAPTION, FILE, OPTIONS, arrays, common, losses, same, train

from ondevice.base.process import signals

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")
few_threads, pictures, unbroken = test_train.few_threads, test_train.pictures, test_train.unbroken


@pytest.fixture
def heard(monkeypatch):
    """Ctrl-C as in a verb's process."""
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    for name in ("phase", "held", "waiting", "last", "asked", "code"):
        monkeypatch.setattr(signals._State, name, getattr(signals._State, name))
    signal.signal(signal.SIGINT, signals._hear)
    signals._State.phase = signals.STARTING  # `running` follows in the verb
    yield
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = hook


@pytest.mark.parametrize("where, kept", [("gradients", 3), ("update", 4), ("average", 4), ("log", 4)])
def test_ctrl_c_leaves_the_steps_that_were_done(where, kept, pictures, unbroken, tmp_path, capsys, monkeypatch, heard):
    """In the fourth step: before its weights change it is lost, and from then on it is kept, whole."""
    from ondevice.train.average import Average
    from ondevice.train.finetune import Finetune
    from ondevice.train.logs import Logs

    owner, name = {
        "gradients": (Finetune, "latents"), "update": (torch.optim.AdamW, "step"), "average": (Average, "update"),
        "log": (Logs, "step"),
    }[where]  # fmt: skip
    original, calls = getattr(owner, name), []

    def interrupted(*args, **more):
        calls.append(1)
        if len(calls) == (8 if where == "gradients" else 4):  # two batches a step
            signal.raise_signal(signal.SIGINT)
        return original(*args, **more)

    monkeypatch.setattr(owner, name, interrupted)
    options = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True)) | {"checkpointing_steps": 100, "max_train_steps": 5}
    words = (*common(pictures, tmp_path), *(word for pair in options.items() for word in pair))
    assert train("lora", *words) == 130
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert f"stopped after step {kept}; --resume_from_checkpoint latest goes on" in said
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    assert list(losses(tmp_path)) == list(range(1, kept + 1))
    assert train("lora", *words, "resume_from_checkpoint", "latest") == 0
    same(tmp_path / FILE, unbroken / FILE)
    assert losses(tmp_path) == losses(unbroken)


def test_ctrl_c_in_a_picture_leaves_the_weights_and_not_their_average(pictures, unbroken, tmp_path, monkeypatch, heard):
    """Nothing is written twice either: a step that has its checkpoint keeps it."""
    from ondevice.train import adapting

    def interrupted(*_args):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(adapting, "write_lora", lambda *_: tmp_path)
    monkeypatch.setattr(adapting, "drawing", interrupted)
    options = ("use_ema", "true", "validation_prompt", CAPTION, "max_train_steps", 2, "checkpointing_steps", 100)
    assert train("lora", *common(pictures, tmp_path), *options, "validation_epochs", 1, "train_batch_size", 5) == 130
    trained, average = (arrays(tmp_path / "checkpoint-1" / f"{name}.safetensors") for name in ("trained", "average"))
    assert any((trained[name] != average[name]).any() for name in trained)

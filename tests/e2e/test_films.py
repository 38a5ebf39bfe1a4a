"""Films by the command line and by the library: how many frames, the files that they are written to, and what is
refused. The networks are tiny plans (bundle.pipeline_bundle); what they compute means nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle.pipeline_bundle import write_pipeline
from diffusion.test_pipeline_shapes import golden
from PIL import Image

from ondevice import Pipeline, cli
from ondevice.diffusion.picture_texts import read_texts

pytestmark = pytest.mark.device
SIZE = (24, 16)
FLAGS = ["--frames", "5", "--fps", "9", "--motion-bucket", "40", "--steps", "2", "--seed", "3"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = golden("svd")
    whole["pipeline"]["sampler"] = {"name": "euler", "steps": 2}
    return write_pipeline(tmp_path_factory.mktemp("films") / "bundle", whole, frames=5, chunks=(1, 2), batches=(1,))


@pytest.fixture
def draw(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `generate` in a folder of its own; gives what it printed."""
    pixels = np.random.default_rng(4).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "begin.png")
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, code: int = 0) -> str:
        given = ["generate", str(bundle), "--init-image", "begin.png", "--device", "cpu", *FLAGS]
        assert cli.main([*given, *flags]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray((film.seek(number), film.convert("RGB"))[1]) for number in range(film.n_frames)]


def test_frames_in_a_folder_and_drawn_again(draw, tmp_path: Path) -> None:
    names = [f"frames/frame-0{number}.png" for number in range(1, 6)]
    assert draw("--out", "frames").split() == names
    frames = [np.asarray(Image.open(name)) for name in names]
    assert all(frame.shape == (16, 24, 3) for frame in frames) and len({frame.tobytes() for frame in frames}) == 5
    own = json.loads(read_texts(Path(names[0])).own or "")
    assert {"frame_count": 5.0, "fps": 9.0, "motion_bucket": 40.0, "init_image": "begin.png"}.items() <= own.items()
    (tmp_path / "frames" / "begin.png").write_bytes((tmp_path / "begin.png").read_bytes())
    draw("--from", names[0], "--out", "again")
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / Path(name).name).read_bytes()
    draw("--from", names[0], "--motion-bucket", "90", "--out", "other")  # what is given wins
    assert json.loads(read_texts(tmp_path / "other" / "frame-01.png").own or "")["motion_bucket"] == 90
    assert draw("--out", "a.png").split() == [f"a-{number}.png" for number in range(1, 6)]
    assert (tmp_path / "a-2.png").read_bytes() == (tmp_path / names[1]).read_bytes()


def test_one_file(draw, tmp_path: Path) -> None:
    """A small WebP has the frames exactly."""
    import av

    draw("--out", "frames")
    frames = [np.asarray(Image.open(tmp_path / "frames" / f"frame-0{number}.png")) for number in range(1, 6)]
    assert draw("--out", "a.webp") == "a.webp\n" and draw("--out", "a.gif") == "a.gif\n"
    assert draw() == "film.webp\n" and draw() == "film-1.webp\n"
    assert all(map(np.array_equal, frames_of(Path("a.webp")), frames)) and len(frames_of(Path("a.gif"))) == 5
    assert (tmp_path / "film.webp").read_bytes() == (tmp_path / "a.webp").read_bytes()
    with Image.open("a.webp") as film:
        film.load()
        assert film.info["duration"] in (111, 112) and b"motion_bucket" in film.info["xmp"]
    assert draw("--out", "a.mp4") == "a.mp4\n"
    with av.open(io.BytesIO((tmp_path / "a.mp4").read_bytes())) as film:
        video = film.streams.video[0]
        assert (video.average_rate, video.width, video.height) == (9, *SIZE)
        assert json.loads(film.metadata["comment"])["motion_bucket"] == 40
        assert len(list(film.decode(video))) == 5


def test_by_the_library(draw, bundle: Path, tmp_path: Path) -> None:
    """In diffusers' words, and what it gives is what the command line writes; chunks are what is asked for."""
    draw("--out", "frames", "--decode-chunk", "1")
    frames = [np.asarray(Image.open(tmp_path / "frames" / f"frame-0{number}.png")) for number in range(1, 6)]
    pipe = Pipeline.from_bundle(bundle, device="cpu")
    options = {"num_frames": 5, "fps": 9, "motion_bucket_id": 40, "num_inference_steps": 2, "seed": 3}
    drawn = pipe(image=Image.open("begin.png"), decode_chunk_size=1, **options)
    assert drawn.frames is not None and np.array_equal(drawn.frames, frames)
    assert len(drawn.images) == 5 and drawn.parameters["decode_chunk"] == 1
    in_twos = pipe(image=np.asarray(Image.open("begin.png")), **options)
    assert "decode_chunk" not in in_twos.parameters and np.array_equal(in_twos.latents, drawn.latents)


def test_it_goes_on(draw, tmp_path: Path) -> None:
    draw("--out", "a")
    draw("--out", "b", "--checkpoint-every", "1", "--resume")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert not list(tmp_path.glob("*.resume"))


def test_a_batch(bundle: Path, draw, tmp_path: Path) -> None:
    lines = [{"init_image": "begin.png", "frames": 5, "motion_bucket": 200, "name": name} for name in ("a", "b.webp")]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert (
        cli.main(["batch", "lines.jsonl", "--bundle", str(bundle), "--out", "films", "--steps", "2", "--device", "cpu"])
        == 0
    )
    frames = [np.asarray(Image.open(tmp_path / "films" / f"a-{number}.png")) for number in range(1, 6)]
    assert all(map(np.array_equal, frames_of(tmp_path / "films" / "b.webp"), frames))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["a cat"], "prompt: this model takes no such text. Fix: leave it out."),
        (["--negative", "a cat"], "negative_prompt: this model takes no such text. Fix: leave it out."),
        (["--frames", "4"], "frame_count: the bundle has no plans of so many (got 4, expected 5). Fix: use 5."),
        (["--fps", "70"], "fps: out of range (got 70.0, expected 1 to 60)"),
        (["--decode-chunk", "0"], "decode_chunk: the bundle does not decode 5 frames so (got 0 at once"),
        (["--guidance", "3"], "guidance_scale: this model has no such number"),
        (["--out", "a.avi"], "--out: a.avi: pictures are written as PNG, JPEG or WebP"),
        (["--out", "begin.png/frames"], "--out: begin.png/frames: no folder can be made there."),
        (["--mask", "begin.png"], "mask: this model takes no such picture (it takes image)"),
    ],
)
def test_what_cannot_be_had(flags: list[str], said: str, draw, tmp_path: Path) -> None:
    assert said in draw(*flags, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["begin.png"]


def test_what_is_missing(
    bundle: Path, draw, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    said = draw("--out", "a.mp4", code=2)
    assert "an MP4 needs PyAV, which is not installed. Fix: pip install 'ondevice[video]', or write a .webp." in said
    assert cli.main(["generate", str(bundle), "--device", "cpu"]) == 2
    assert "image: this model draws nothing without a picture" in capsys.readouterr().err
    for flags in (["--frames", "3"], ["--motion-bucket", "3"], ["--decode-chunk", "3"]):
        assert cli.main(["generate", str(demo_bundle), "a cat", *flags]) == 2
        assert f"{flags[0]}: the bundle draws no films. Fix: leave it out." in capsys.readouterr().err
    for name in ("a.gif", "a.mp4", "frames"):
        assert cli.main(["generate", str(demo_bundle), "a cat", "--out", name]) == 2
        assert f"--out: {name}: pictures are written as PNG, JPEG or WebP" in capsys.readouterr().err

"""Frames of a morph against diffusers' pipelines and the formulas of docs/morph.md in torch, in float32: Stable
Diffusion 1.x, 2.x (whose network predicts the velocity) and XL."""

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from parity.test_kinds_of_models import HEIGHT, WIDTH, checkpoint, parts
from PIL import Image

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion.inversion import Inversion
from ondevice.diffusion.morph import Morph, parts_of_way, request_of_frames
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]
PROMPTS, NEGATIVE = ("a red circle on a blue background", "a green star"), "a grey ring"
STEPS, FRAMES = 4, 3
DRAWN_WITH = {"inverse": "DDIMScheduler", "ddim": "DDIMScheduler", "own": "PNDMScheduler"}
ENDS = tuple(
    np.asarray(
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)).resize((WIDTH, HEIGHT))
    )
    for seed in (1, 2)
)


class Theirs:
    """The morph in torch."""

    def __init__(self, name, way, folder):
        self.torch, self.diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
        self.xl, self.way, given = name == "sdxl", way, dict(parts(name, folder))
        given["scheduler"] = getattr(self.diffusers, DRAWN_WITH[way]).from_config(given["scheduler"].config)
        if self.xl:
            self.pipe = self.diffusers.StableDiffusionXLPipeline(**given, add_watermarker=False)
        else:
            more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            self.pipe = self.diffusers.StableDiffusionPipeline(**given, **more)
        self.pipe.set_progress_bar_config(disable=True)

    def texts(self, prompt):
        """(states, pooled or None)."""
        found = self.pipe.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return found[0], (found[2] if self.xl else None)

    def predict(self, x, timestep, texts):
        states, pooled = texts
        more = {}
        if self.xl:
            sizes = self.torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=self.torch.float32)
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        return self.pipe.unet(x, timestep, encoder_hidden_states=states, **more)[0]

    def inverted(self, pixels, texts):
        torch, scheduler = self.torch, self.pipe.scheduler
        x = torch.tensor(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        x = self.pipe.vae.encode(x).latent_dist.mean * self.pipe.vae.config.scaling_factor
        if self.way == "inverse":
            inverse = self.diffusers.DDIMInverseScheduler.from_config(scheduler.config)
            inverse.set_timesteps(STEPS)
            for t in inverse.timesteps:
                x = inverse.step(self.predict(x, t, texts), t, x)[0]
            return x
        scheduler.set_timesteps(STEPS)
        timesteps = torch.flip(scheduler.timesteps, [0])
        for i, t in enumerate(timesteps):
            to = scheduler.alphas_cumprod[t]
            a = scheduler.alphas_cumprod[timesteps[i - 1]] if i else scheduler.final_alpha_cumprod
            noise = self.predict(x, t, texts)
            x = to**0.5 * (x - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - to) ** 0.5 * noise
        return x

    def slerp(self, p0, p1, part):
        torch, (p0, p1) = self.torch, (p0.double(), p1.double())
        dot = (p0 * p1).sum() / (torch.linalg.norm(p0) * torch.linalg.norm(p1))
        theta = torch.arccos(dot.clamp(-1 + 1e-7, 1 - 1e-7))
        return ((torch.sin(theta - theta * part) * p0 + torch.sin(theta * part) * p1) / torch.sin(theta)).float()

    def frames(self, guidance, turn):
        torch = self.torch
        with torch.no_grad():
            texts, ends = [self.texts(prompt) for prompt in PROMPTS], []
            for part, (pixels, own) in enumerate(zip(ENDS, texts, strict=True)):
                turn(float(part))
                ends.append(self.inverted(pixels, own))
            for part in parts_of_way(FRAMES):
                turn(part)
                mixed = [None if a is None else torch.lerp(a, b, part) for a, b in zip(*texts, strict=True)]
                given = {"prompt_embeds": mixed[0], "latents": self.slerp(*ends, part), "guidance_scale": guidance}
                negative = self.texts(NEGATIVE)
                given |= {"negative_prompt_embeds": negative[0]} if guidance > 1 else {}
                if self.xl:
                    given |= {"pooled_prompt_embeds": mixed[1]}
                    given |= {"negative_pooled_prompt_embeds": negative[1]} if guidance > 1 else {}
                call = {"num_inference_steps": STEPS, "height": HEIGHT, "width": WIDTH, "output_type": "np"}
                yield (self.pipe(**given, **call).images[0] * 255).round()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture
def loras(request, tmp_path):
    """Files of an adapter of each end's, of the UNet's layers."""
    components = {"unet": checkpoint(request.node.callspec.params["name"]).components["unet"]}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        write_safetensors(path, adapter(components, "peft", seed=seed, gain=0.3))
    return paths


@pytest.mark.parametrize(
    "name, way, guidance, adapted",
    [("sd15", "own", 3.0, True), ("sd21", "inverse", 1.0, False), ("sdxl", "inverse", 3.0, True)],
)
def test_frames_are_those_of_diffusers_and_the_formulas(name, way, guidance, adapted, loras, folder, tmp_path):
    path = compile_bundle(checkpoint(name), tmp_path / "m.ondevice", Recipe("f32"), sizes=[(WIDTH, HEIGHT)])
    bundle = open_bundle(path)
    asked = Request(
        prompt=PROMPTS[0], negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=guidance,
        width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    request = request_of_frames(bundle.pipeline, bundle.scheduler, asked, Inversion(way))
    pipeline, theirs = Pipeline.of(bundle, Session(bundle, choose_device())), Theirs(name, way, folder)

    def turned(pipe):
        for path in loras:
            pipe.load_lora_weights(path, adapter_name=path.stem)
        return lambda part: pipe.set_adapters(["a", "b"], [1 - part, part])

    turns = [turned(pipe) if adapted else lambda part: None for pipe in (pipeline, theirs.pipe)]
    morph = Morph(pipeline, request, ENDS, PROMPTS[1], Inversion(way), turn=turns[0])
    for end in (0, 1):
        morph.invert(end)
    drawn = [morph.frame(part).pixels for part in parts_of_way(FRAMES)]
    assert drawn[0].std() > 10 and np.abs(drawn[0].astype(int) - drawn[-1]).mean() > 5, "flat or equal pictures"
    try:
        for ours, other in zip(drawn, theirs.frames(guidance, turns[1]), strict=True):
            assert np.abs(ours - other).max() <= 2
    finally:
        if adapted:
            theirs.pipe.unload_lora_weights()  # its modules are others' too

"""Changes of tests/golden/pipeline/sdxl_refiner.json's pipeline, and what a reader says to them."""

from __future__ import annotations

from bundle.setting import Setting, setting

LOOP: tuple[str | int, ...] = ("denoise", 0)
UNET: tuple[str | int, ...] = (*LOOP, "roles", 0)
CONDITION: tuple[str | int, ...] = ("before", 2)


MASK = {"picture": "mask", "strength": 1.0}
UNBEGUN = (setting("latents", "begin", to=...), setting("latents", "strength", to=...))
MASK_PICTURE = setting("pictures", "mask", to={"prepare": "mask", "optional": True})
OUTSIDE = {"picture": "image", "mask": "mask"}
RAMP, WINDOWED = {"ramp": ["guidance_scale", "strength"]}, {"default": 1, "window": ["handover", "handover"]}


def value(name: str) -> dict[str, str]:
    return {"value": name}


# Changes of sdxl_refiner.json's pipeline, and how the refusal begins; "" where it is still a pipeline.
PIPELINE_CHANGES: list[tuple[Setting, str]] = [
    (setting("later", to=1), ""),
    (setting("gives", to=...), ".gives is missing"),
    (setting("numbers", to=[]), ".numbers is a list of 0 (expected an object"),
    (setting("numbers", "handover", to=[]), '.numbers["handover"] is a list of 0 (expected an object'),
    (setting("texts", to=[]), ".texts is a list of 0 (expected an object"),
    (setting("texts", "prompt", to=[]), '.texts["prompt"] is a list of 0 (expected an object'),
    (setting("pictures", to=[]), ".pictures is a list of 0 (expected an object"),
    (setting("sampler", "name", to="e uler"), '.sampler.name is "e uler" (expected an identifier)'),
    (setting("gives", to="sound"), '.gives is "sound" (expected one of: frames, picture)'),
    (setting("gives", to="frames"), ".after keeps no frames in its last role"),
    (
        setting("needs", to=["tea"]),
        '.needs[0] asks for "tea", which this version does not know; install a newer ondevice',
    ),
    (setting("numbers", "a b", to={"default": 1}), '.numbers["a b"] is "a b" (expected an identifier)'),
    (setting("numbers", "width", to={"default": 1}), '.numbers["width"] is "width", a name that is taken'),
    (setting("numbers", "handover", "default", to=2), '.numbers["handover"].default is 2 (expected a number 0..1)'),
    (setting("numbers", "handover", "default", to=None), '.numbers["handover"].default is null (expected a number'),
    (
        setting("numbers", "handover", "default", to="later"),
        '.numbers["handover"].default is "later" (expected one of: guidance_scale',
    ),
    (setting("numbers", "handover", "low", to=True), '.numbers["handover"].low is true (expected a number'),
    (setting("numbers", "handover", "high", to=-1), '.numbers["handover"].high is -1 (expected a number 0..'),
    (
        setting("numbers", "handover", "window", to=["handover"]),
        '.numbers["handover"].window is a list of 1 (expected a list of 2)',
    ),
    (
        setting("numbers", "handover", "window", to=["handover", "strength"]),
        '.numbers["handover"].window[0] is "handover" (expected one',
    ),
    (
        setting("numbers", "handover", to={"ramp": ["strength", 1]}),
        '.numbers["handover"].ramp[1] is 1 (expected one of: guidance_scale',
    ),
    (
        setting("numbers", "crop_top", "window", to=["strength", "handover"]),
        '.before[2].feed["time_ids"] changes once per call, and the role',
    ),
    (setting("texts", "strength", to={}), '.texts["strength"] is "strength", a name that is taken'),
    (setting("texts", "prompt", "optional", to=1), '.texts["prompt"].optional is 1 (expected true or false)'),
    (
        setting("pictures", "image", "prepare", to="paint"),
        '.pictures["image"].prepare is "paint" (expected one of: clip_vision',
    ),
    (
        setting("pictures", "image", "prepare", to="masked"),
        '.pictures["image"].of is wrong (expected a picture and its mask',
    ),
    (setting("pictures", "image", "of", to={}), '.pictures["image"].of is an object of 0 (expected a list'),
    (
        setting("pictures", "mask", to={"prepare": "fit", "of": ["image", "image"]}),
        '.pictures["mask"].of is wrong (expected a picture and its mask',
    ),
    (setting("pictures", "edges", to={"prepare": "edges", "of": ["image"]}), ""),
    (
        setting(
            *("pictures", "same"),
            to={"prepare": "fit", "of": ["image"]},
            also=(setting("pictures", "other", to={"prepare": "edges", "of": ["same"]}),),
        ),
        '.pictures["other"].of[0] is "same" (expected one of: image)',
    ),
    (setting("pictures", "image", "of", to=["image"]), '.pictures["image"].of[0] is "image" (expected nothing here)'),
    (setting("pictures", "prompt", to={"prepare": "fit"}), '.pictures["prompt"] is "prompt", a name that is taken'),
    (setting("latents", "channels", to=0), ".latents.channels is 0 (expected 1..64)"),
    (setting("latents", "scale", to=8.0), ".latents.scale is 8.0 (expected 1..64)"),
    (setting("latents", "scaling", to=0), ".latents.scaling is 0 (expected a number 1e-09..1e+09)"),
    (setting("latents", "shift", to="x"), '.latents.shift is "x" (expected a number'),
    (setting("latents", "preview", to=[[1] * 5] * 3), ""),
    (setting("latents", "preview", to=[[1] * 5] * 2), ".latents.preview is a list of 2 (expected a list of 3)"),
    (
        setting("latents", "preview", to=[[1] * 5, [1] * 4, []]),
        ".latents.preview[1] is a list of 4 (expected a list of 5)",
    ),
    (setting("latents", "preview", to=[[1, 2, 3, 4, "x"]] * 3), '.latents.preview[0][4] is "x" (expected a number'),
    (
        setting("latents", "begin", to="context"),
        '.latents.begin is "context" (expected a value that is made once per picture)',
    ),
    (setting("latents", "strength", to=...), ".latents.begin is there alone (expected begin and strength, or neither)"),
    (setting("latents", "rounds", to="sideways"), '.latents.rounds is "sideways" (expected one of: down, up)'),
    (
        setting("latents", "rounds", to="up", also=UNBEGUN),
        ".latents.rounds is there alone (expected begin and strength beside it)",
    ),
    (setting("latents", "strength", to="power"), '.latents.strength is "power" (expected one of: aesthetic_score'),
    (setting("latents", "frames", to=3), ".latents.frames is 3 (expected one of: aesthetic_score"),
    (
        setting("latents", "frames", to="crop_top"),
        '.gives is picture, and latents.frames is "crop_top" (expected frames',
    ),
    (setting("latents", "mask", to=MASK, also=(MASK_PICTURE,)), ""),
    (setting("latents", "mask", to=1), ".latents.mask is 1 (expected an object"),
    (setting("latents", "mask", to=MASK), '.latents.mask.picture is "mask" (expected nothing here)'),
    (
        setting("latents", "mask", to=MASK | {"picture": "image"}, also=(MASK_PICTURE,)),
        '.latents.mask.picture is "image" (expected one of: mask)',
    ),
    (
        setting("latents", "mask", to=MASK | {"strength": 2}, also=(MASK_PICTURE,)),
        ".latents.mask.strength is 2 (expected a number 0..1)",
    ),
    (
        setting("latents", "mask", to=MASK, also=(MASK_PICTURE, *UNBEGUN)),
        ".latents.mask is there alone (expected begin and strength beside it)",
    ),
    (setting("outside", to=OUTSIDE, also=(MASK_PICTURE,)), ""),
    (setting("outside", to=[]), ".outside is a list of 0 (expected an object"),
    (setting("outside", to=OUTSIDE), '.outside.mask is "mask" (expected nothing here)'),
    (
        setting("outside", to=OUTSIDE | {"picture": "mask"}, also=(MASK_PICTURE,)),
        '.outside.picture is "mask" (expected one of: image)',
    ),
    (
        setting(
            *("outside",),
            to=OUTSIDE,
            also=(
                MASK_PICTURE,
                setting("gives", to="frames"),
                setting("latents", "frames", to="crop_top"),
                setting("after", 0, "keep", "sample", to="frames"),
            ),
        ),
        ".outside is there, and frames are given (expected a picture)",
    ),
    (setting("sampler", "name", to="pndm"), ".sampler is pndm at 30 steps, but samplers has no pndm_30"),
    (setting("sampler", "steps", to=1001), ".sampler.steps is 1001 (expected 1..1000)"),
    (setting("before", to={}), ".before is an object of 0 (expected a list of 0..64)"),
    (setting("before", 0, to=1), ".before[0] is 1 (expected an object"),
    (setting("before", 0, "feed", to=[]), ".before[0].feed is a list of 0 (expected an object"),
    (setting("before", 0, "keep", to=[]), ".before[0].keep is a list of 0 (expected an object"),
    (
        setting("before", 0, "feed", "input_ids", to=[]),
        '.before[0].feed["input_ids"] is a list of 0 (expected an object',
    ),
    (setting("before", 0, "feed", "x\ny", to={"tokens": "tokenizer"}), '.before[0].feed is "x\\ny" (expected'),
    (setting("before", 0, "keep", "x\ny", to="more"), '.before[0].keep is "x\\ny" (expected'),
    (setting("before", 0, "run", to="encoder"), '.before[0].run is "encoder" (expected one of: condition'),
    (
        setting("before", 0, "every", to="call"),
        '.before[0].every is "call" (expected one of: bundle, picture, text)',
    ),
    (setting("before", 0, "every", to="chunk"), '.before[0].every is "chunk" (expected one of: bundle, picture, text)'),
    (setting("before", 5, "below", to=["strength", 1]), ""),
    (setting("before", 5, "below", to=["strength"]), ".before[5].below is a list of 1 (expected a list of 2)"),
    (
        setting("before", 5, "below", to=["width", 1]),
        '.before[5].below[0] is "width" (expected one of: aesthetic_score',
    ),
    (setting("before", 6, "below", to=["strength", "x"]), '.before[6].below[1] is "x" (expected a number'),
    (
        setting("before", 7, "below", to=["strength", 1]),
        ".before[7].below is there, and the noise is always drawn (expected it of a role or sample)",
    ),
    (
        setting("before", 2, "below", to=["strength", 1]),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (
        setting(
            *(*UNET, "feed", "mask"),
            to=value("image_latents"),
            also=(
                setting("pictures", "image", "optional", to=...),
                setting("before", 6, "below", to=["strength", 1]),
            ),
        ),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (
        setting("after", 0, "every", to="text"),
        '.after[0].every is "text" (expected one of: chunk, picture)',
    ),
    (
        setting("before", 0, "every", to="picture"),
        '.before[0].feed["input_ids"] changes once per text, and the role runs once per picture',
    ),
    (
        setting("before", 0, "feed", "input_ids", to={}),
        '.before[0].feed["input_ids"] is an object of 0 of no kind (expected value',
    ),
    (
        setting("before", 0, "feed", "input_ids", to={"tokens": "tokenizer_3"}),
        '.before[0].feed["input_ids"].tokens is "tokenizer_3" (expected one of: tokenizer',
    ),
    (
        setting("before", 0, "feed", "input_ids", "absent", to="ones"),
        '.before[0].feed["input_ids"].absent is "ones" (expected "zeros"',
    ),
    (
        setting("before", 0, "feed", "x\n", to=value("states")),
        '.before[0].feed["x\\n"].value is "states" (expected nothing here)',
    ),
    (
        setting("before", 0, "keep", "hidden_states", to="latents"),
        '.before[0].keep["hidden_states"] is "latents", a name that is taken',
    ),
    (
        setting("before", 1, "keep", "text_embeds", to="states_2"),
        '.before[1].keep["text_embeds"] is "states_2", a name that is taken',
    ),
    (
        setting(*CONDITION, "feed", "pooled", to=value("context")),
        '.before[2].feed["pooled"].value is "context" (expected one of: pooled',
    ),
    (
        setting(*CONDITION, "feed", "time_ids", "numbers", to=[]),
        '.before[2].feed["time_ids"].numbers is a list of 0 (expected a list of 1..64)',
    ),
    (
        setting(*CONDITION, "feed", "time_ids", "numbers", 0, to={"prompt": 1}),
        '.before[2].feed["time_ids"].numbers[0] is an object of 1 (expected a',
    ),
    (
        setting(*CONDITION, "feed", "time_ids", "numbers", 0, to="x"),
        '.before[2].feed["time_ids"].numbers[0] is "x" (expected one of: aesthetic_score',
    ),
    (
        setting(*CONDITION, "feed", "time_ids", "numbers", 0, to={"prompt": "x", "negative_prompt": 1}),
        '.before[2].feed["time_ids"].numbers[0]["prompt"] is "x" (expected one of: aesthetic_score',
    ),
    (
        setting("before", 5, "feed", "sample", "noise", to="x"),
        '.before[5].feed["sample"].noise is "x" (expected one of: aesthetic_score',
    ),
    (
        setting("before", 5, "feed", "sample", "picture", to="photo"),
        '.before[5].feed["sample"].picture is "photo" (expected one of: image)',
    ),
    (
        setting("before", 6, "sample", to="pooled"),
        '.before[6].sample is "pooled" (expected a value that is made once per picture)',
    ),
    (setting("before", 6, "take", to="max"), '.before[6].take is "max" (expected one of: draw, mean)'),
    (setting("before", 7, "noise", to="image"), '.before[7].noise is "image" (expected one of: latents)'),
    (
        setting("before", 6, to={"noise": "latents"}, also=UNBEGUN),
        ".before draws the initial noise twice",
    ),
    (setting("denoise", to=[]), ".denoise is a list of 0 (expected a list of 1..8)"),
    (setting(*LOOP, "from", to="dawn"), '.denoise[0].from is "dawn" (expected one of: aesthetic_score'),
    (setting(*LOOP, "until", to="dusk"), '.denoise[0].until is "dusk" (expected one of: aesthetic_score'),
    (setting(*LOOP, "roles", to=[]), ".denoise[0].roles is a list of 0 (expected a list of 1..64)"),
    (setting(*LOOP, "prediction", to="context"), '.denoise[0].prediction is "context" (expected one of: prediction)'),
    (
        setting(*UNET, "feed", "mask", to=value("image_latents")),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (setting(*UNET, "feed", "mask", to=value("image_latents") | {"absent": "zeros"}), ""),
    (
        setting(*UNET, "feed", "mask", to={"picture": "image"}),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (
        setting(
            *UNET,
            "feed",
            "mask",
            to=value("image_latents"),
            also=(setting("before", 5, "feed", "x", to={"numbers": [1]}),),
        ),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (
        setting(
            *(*UNET, "feed", "mask"),
            to={"picture": "painted"},
            also=(
                setting("pictures", "mask", to={"prepare": "mask"}),
                setting("pictures", "painted", to={"prepare": "masked", "of": ["image", "mask"]}),
            ),
        ),
        ".denoise[0].roles[0].feed reads what is not made where an optional picture",
    ),
    (
        setting(*UNET, "feed", "encoder_hidden_states", to=..., also=(setting(*UNET, "feed", "added", to=...),)),
        ".denoise[0].passes[0] has a text, and its roles read none",
    ),
    (
        setting("after", 0, "keep", "more", to="prediction"),
        '.after[0].keep["more"] is "prediction", a name that is taken',
    ),
    (setting(*LOOP, "passes", to={}), ".denoise[0].passes is an object of 0 (expected a list of 1..16)"),
    (setting(*LOOP, "passes", 0, to=[]), ".denoise[0].passes[0] is a list of 0 (expected an object"),
    (
        setting(*LOOP, "passes", 0, "zeros", to={}),
        ".denoise[0].passes[0].zeros is an object of 0 (expected a list of 0..64)",
    ),
    (setting(*LOOP, "passes", 0, "text", to=...), ".denoise[0].passes[0] has no text, and its roles read one"),
    (
        setting(*LOOP, "passes", 0, "text", to="song"),
        '.denoise[0].passes[0].text is "song" (expected one of: negative_prompt, prompt)',
    ),
    (
        setting(*LOOP, "passes", 0, "zeros", to=["song"]),
        '.denoise[0].passes[0].zeros[0] is "song" (expected one of: added',
    ),
    (setting(*LOOP, "passes", 0, "zeros", to=["latents", "prediction"]), ""),
    (
        setting(*LOOP, "passes", 0, "zeros", to=["timestep"]),
        '.denoise[0].passes[0].zeros[0] is "timestep" (expected one of: added',
    ),
    (setting(*LOOP, "combine", "first", to=2), ".denoise[0].combine.first is 2 (expected 0..1)"),
    (setting(*LOOP, "combine", "add", to={}), ".denoise[0].combine.add is an object of 0 (expected a list of 0..16)"),
    (
        setting(*LOOP, "combine", "add", 0, to=["guidance_scale", 1]),
        ".denoise[0].combine.add[0] is a list of 2 (expected a list of 3)",
    ),
    (
        setting(*LOOP, "combine", "add", 0, to=["guidance_scale", 1, 2]),
        ".denoise[0].combine.add[0][2] is 2 (expected 0..1)",
    ),
    (
        setting(*LOOP, "combine", "add", 0, 0, to="force"),
        '.denoise[0].combine.add[0][0] is "force" (expected one of: aesthetic_score',
    ),
    (setting(*LOOP, "guided", "alone", to=2), ".denoise[0].guided.alone is 2 (expected 0..1)"),
    (
        setting(*LOOP, "guided", "above", to="much"),
        '.denoise[0].guided.above is "much" (expected a number -1e+06..1e+06)',
    ),
    (
        setting(*LOOP, "guided", "above", to=1e7),
        ".denoise[0].guided.above is 10000000.0 (expected a number -1e+06..1e+06)",
    ),
    (
        setting(*LOOP, "guided", "above", to=-1e7),
        ".denoise[0].guided.above is -10000000.0 (expected a number -1e+06..1e+06)",
    ),
    (
        setting(*LOOP, "guided", "number", to="force"),
        '.denoise[0].guided.number is "force" (expected one of: aesthetic_score',
    ),
    (setting(*LOOP, "guided", to=...), ""),
    (setting(*LOOP, "rescale", to="strength"), ""),
    (
        setting(*LOOP, "rescale", to="ramp", also=(setting("numbers", "ramp", to=RAMP),)),
        '.denoise[0].rescale is "ramp" (expected one of: aesthetic_score',
    ),
    (
        setting("latents", "strength", to="ramp", also=(setting("numbers", "ramp", to=RAMP),)),
        '.latents.strength is "ramp" (expected one of: aesthetic_score',
    ),
    (
        setting("latents", "strength", to="windowed", also=(setting("numbers", "windowed", to=WINDOWED),)),
        '.latents.strength is "windowed" (expected one of: aesthetic_score',
    ),
    (setting(*LOOP, "rescale", to="force"), '.denoise[0].rescale is "force" (expected one of: aesthetic_score'),
    (
        setting(*LOOP, "rescale", to="strength", also=(setting(*LOOP, "combine", "add", to=[]),)),
        ".denoise[0].rescale is there, and nothing is",
    ),
    (
        setting("after", 0, "feed", "latent_sample", to=value("prediction")),
        '.after[0].feed["latent_sample"].value is "prediction" (expected',
    ),
    (
        setting("after", 0, "feed", "latent_sample", to=value("context")),
        '.after[0].feed["latent_sample"] changes once per text, and the role',
    ),
    (
        setting("after", 0, "feed", "latent_sample", to=value("image_latents")),
        ".after makes no picture where an optional picture is",
    ),
    (setting("after", to=[]), ".after is a list of 0 (expected a list of 1..64)"),
]

"""A player of bundles, written from docs/bundle.md, pipeline.md, samplers.md, tokenizer.md and noise.md alone."""

import functools
import itertools
import json
import math
import re
import unicodedata
from pathlib import Path

import numpy as np
from reference import prompts
from reference.pictures import Pictures
from reference.unigram import T5

F = np.float32
LOG = (0.070376836292, -0.1151461031, 0.1167699874, -0.12420140846, 0.14249322787)
LOG += (-0.16668057665, 0.20000714765, -0.24999993993, 0.33333331174)
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTERS = {b: chr(b) for b in PLAIN} | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in PLAIN)}
JOINERS, WORD = "\u200c\u200d", ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc")
SHORT, RUN = re.compile(r"(<\|)((?:start|end)oftext)(\|>)|'(?:[stmd]|re|ve|ll)"), re.compile("L+|N|-+| +")
ROLES = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


class Noise:  # docs/noise.md; NumPy has the generator
    def __init__(self, seed):
        generator, self.kept = np.random.RandomState(seed % 2**32), []
        self.words = lambda count: generator.randint(0, 2**32, count, np.uint32)

    def draw(self, shape):
        if (count := math.prod(shape)) < 16:
            while len(self.kept) < count:
                a, b, c, d = self.words(4).tolist()
                radius = math.sqrt(-2 * math.log1p(-((c << 32 | d) % 2**53) * 2.0**-53))
                angle = 2 * math.pi * ((a << 32 | b) % 2**53 * 2.0**-53)
                self.kept += [radius * math.cos(angle), radius * math.sin(angle)]
            values, self.kept = self.kept[:count], self.kept[count:]
            return np.array(values, F).reshape(shape)
        values = np.concatenate([box_muller(self.words(count)[: count & ~15]), np.empty(count % 16, F)])
        if count % 16:
            values[-16:] = box_muller(self.words(16))
        return values.reshape(shape)


def horner(x, value, *constants):  # (value * x + constant) * x + constant... by fused multiply-adds
    for constant in constants:
        value = (np.float64(F(value)) * np.float64(F(x)) + np.float64(F(constant))).astype(F)
    return value


def box_muller(words):
    u, v = ((words & 0xFFFFFF).astype(F) * F(2.0**-24)).reshape(-1, 2, 8).transpose(1, 0, 2)
    bits = (F(1) - u).view(np.int32)  # first the logarithm
    e, x = ((bits >> 23) - 126).astype(F), ((bits & 0x007FFFFF) | 0x3F000000).view(F)
    low = x < F(0.70710677)
    e, x = np.where(low, e - F(1), e), np.where(low, (x - F(1)) + x, x - F(1))
    z = x * x
    y = horner(0.5, -z, horner(z, horner(x, *LOG) * x, e * F(-0.000212194440)))
    radius, x = np.sqrt(F(-2) * horner(0.693359375, e, x + y)), F(6.2831855) * v
    j = (x * F(1.27323954473516)).astype(np.int32) + 1 & ~1
    for part in (-0.78515625, -0.00024187564849853515625, -0.0000000377489497744594108):
        x = horner(part, j, x)
    z = x * x
    c = horner(z, horner(z, 0.00002443315711809948, -0.001388731625493765, 0.04166664568298827) * z, z * F(-0.5)) + F(1)
    s = horner(x, horner(z, -0.00019515295891, 0.0083321608736, -0.16666654611) * z, x)
    s, c = np.where(j & 2, c, s), np.where(j & 2, s, c)
    return np.stack([radius * np.where((j == 2) | (j == 4), -c, c), radius * np.where(j & 4, -s, s)], 1).reshape(-1)


class Tokenizer:  # docs/tokenizer.md; `files`: bytes by name
    def __init__(self, files, length):
        names = "vocab.json", "tokenizer_config.json", "special_tokens_map.json"
        vocabulary, config, special = (json.loads(files.get(name, b"{}")) for name in names)
        lines = files["merges.txt"].decode().split("\n")[1:]
        self.ranks, self.length = {tuple(line.split(" ")): i for i, line in enumerate(lines) if line}, length
        roles = [special.get(role) or config.get(role) or usual for role, usual in ROLES.items()]
        roles = [role if isinstance(role, dict) else {"content": role} for role in roles]
        listed = config.get("added_tokens_decoder") or {vocabulary[one["content"]]: one for one in roles}
        self.added = {token["content"]: token | {"id": int(i)} for i, token in listed.items()}
        self.ids = vocabulary | {name: token["id"] for name, token in self.added.items()}
        self.bos, self.eos, self.pad = (self.ids[one["content"]] for one in roles)
        self.comma = vocabulary.get(",</w>")

    def spelled(self, text):
        names = {token["id"]: name for name, token in self.added.items()}
        for name in [names[i] for i in dict.fromkeys(self.encode(text)) if i in names]:
            vectors = itertools.takewhile(self.added.__contains__, (f"{name}_{i}" for i in itertools.count(1)))
            if not self.added[name].get("normalized") or self.normal(name) == name:
                text = text.replace(name, " ".join([name, *vectors]))
        return text

    def padded(self, ids):
        ids = [self.bos, *ids[: self.length - 2], self.eos]
        return np.array([[*ids, *[self.pad] * (self.length - len(ids))]], np.int32)

    def __call__(self, text):
        return self.padded(self.encode(self.spelled(text)))

    def encode(self, text):
        parts = (self.cut(self.normal(p), True) if isinstance(p, str) else [p] for p in self.cut(text, False))
        return [i for p in itertools.chain(*parts) for i in (self.words(p) if isinstance(p, str) else [p])]

    def cut(self, text, normal_form):  # into texts, and the ids of added tokens between them
        chosen = {name: token for name, token in self.added.items() if token.get("normalized", False) == normal_form}
        names, found, done = {self.normal(n) if normal_form else n: token for n, token in chosen.items()}, [], 0
        for match in re.finditer("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)", text):
            token, before, after = names[match[0]], text[done : match.start()], text[match.end() :]
            around = text[: match.start()][-1:] + after[:1]
            if not token.get("single_word") or not any(unicodedata.category(c) in WORD or c in JOINERS for c in around):
                found += [before.rstrip(SPACES) if token.get("lstrip") else before, token["id"]]
                done = len(text) - len(after.lstrip(SPACES) if token.get("rstrip") else after)
        return [*found, text[done:]]

    def normal(self, text):
        return "".join(map(str.lower, re.sub(f"[{SPACES}]+", " ", unicodedata.normalize("NFC", text))))

    def words(self, text):
        kinds = "".join(" " if c == " " else k if (k := unicodedata.category(c)[0]) in "LN" else "-" for c in text)
        end = 0
        while (at := end) < len(text):
            end = (match := SHORT.match(text, at) or RUN.match(kinds, at)).end()
            for word in [part for part in match.groups() if part] or (text[at:end].strip(" ") and [text[at:end]]):
                *parts, last = (LETTERS[byte] for byte in word.encode())
                parts.append(last + "</w>")
                while pairs := [(self.ranks[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in self.ranks]:
                    parts[min(pairs)[1] : min(pairs)[1] + 2] = ["".join(parts[min(pairs)[1] : min(pairs)[1] + 2])]
                yield from (self.ids[part] for part in parts)


class Player:  # docs/pipeline.md
    def __init__(self, folder, run, target=None):  # `run(component, sizes, inputs) -> outputs` runs a plan, on arrays
        self.read, self.run, self.tokenizers = lambda name: (Path(folder) / name).read_bytes(), run, {}
        self.manifest, self.target = json.loads(self.read("bundle.json")), target
        for name, about in self.manifest["tokenizers"].items():
            files = {file: self.read(f"tokenizers/{name}/{file}") for file in about["files"]}
            self.tokenizers[name] = (T5 if "unigram.json" in files else Tokenizer)(files, about["length"])

    def draw(
        self, texts, size, *, seed=0, numbers=None, pictures=None, sampler=None, noise=None, emphasis="none", fast=False
    ):
        """(latents f32 [frames, c, h, w], pixels u8 [frames, height, width, 3]). `size`: width, height; `sampler`: a
        table; `fast`: by the fast decoder."""
        self.pipeline = pipeline = self.manifest["pipeline"]
        about = pipeline["latents"]
        self.noise, self.values, self.emphasis = Noise(seed), {}, emphasis
        self.pictures = Pictures(pipeline["pictures"], pictures or {}, size, about["scale"])
        masked = "mask" in about and self.pictures.has(about["mask"]["picture"])
        usual = {about["strength"]: about["mask"]["strength"]} if masked else {}
        self.numbers = {"width": size[0], "height": size[1]}
        for name, number in pipeline["numbers"].items():
            if "ramp" not in number:
                value = (numbers or {}).get(name, usual.get(name, number["default"]))
                self.numbers[name] = self.numbers.get(value, value)
        self.place = {"height": size[1] // about["scale"], "width": size[0] // about["scale"]}
        self.frames = int(self.numbers[about["frames"]]) if "frames" in about else 1
        self.place |= {"frames": self.frames} if "frames" in about else {}
        self.texts = prompts.Texts(self.manifest, self.tokenizers, texts, emphasis)
        named = dict.fromkeys(one.get("text") for loop in pipeline["denoise"] for one in self.passes(loop))
        used = [key for text in named for key in self.texts.keys.get(text, [None])]
        for step in pipeline["before"]:
            if "noise" in step and noise is None:
                noise = self.noise.draw((self.frames, about["channels"], self.place["height"], self.place["width"]))
            elif "below" in step and self.numbers[step["below"][0]] >= step["below"][1]:
                continue
            elif "run" in step:
                self.role(step, used if step["every"] == "text" else [None])
            elif "sample" in step and (moments := self.get(step["sample"])) is not None:
                value, log_variance = np.split(moments, 2, axis=1)
                if step["take"] == "draw":
                    deviation = np.exp(0.5 * np.clip(log_variance.astype(np.float64), -30, 20)).astype(F)
                    value = value + deviation * self.noise.draw(value.shape)
                scaled = F(about["scaling"]) * (value - F(about["shift"]))
                self.values[step["keep"], None] = scaled if step.get("scaled") else value
        table = json.loads(self.read(f"samplers/{sampler or '{name}_{steps}'.format(**pipeline['sampler'])}.json"))
        mask = self.pictures.prepare(about["mask"]["picture"]) if masked else None
        final = self.denoise(table, noise, self.get(about.get("begin")), mask)
        self.values["latents", None] = final / F(about["scaling"]) + F(about["shift"])
        for role in pipeline["fast" if fast else "after"]:
            if role["every"] == "chunk":
                self.chunks(role)
            else:
                self.role(role, [None])
        unit = np.clip(self.get(pipeline["gives"]) * F(0.5) + F(0.5), 0, 1)
        pixels = np.round(unit.transpose(0, 2, 3, 1) * F(255)).astype(np.uint8)
        outside = pipeline.get("outside")
        if outside and all(map(self.pictures.has, outside.values())):
            kept = ~self.pictures.mask(outside["mask"])
            pixels[0, kept] = self.pictures.fitted(outside["picture"])[kept]
        return final, pixels

    def encoded(self, role, text):  # what a role that reads tokens makes of a text, by port
        (port, by), *_ = ((port, feed["tokens"]) for port, feed in role["feed"].items() if "tokens" in feed)
        chunks, length, way = self.texts.chunks(text, by), self.texts.length, self.texts.emphasis

        def run(chunk):
            inputs = {other: self.feed(role, other, text) for other in role["feed"] if other != port}
            ids = self.tokenizers[by].padded([token[0] for token in chunk])
            return self.run(role["run"], self.plan(role["run"], 1)["sizes"], inputs | {port: ids})

        outputs = run(chunks[0])
        for name, value in outputs.items():
            if value.ndim == 3 and value.shape[:2] == (1, length):
                encode = functools.partial(lambda port, chunk: run(chunk)[port].astype(F), name)
                states = [prompts.states(chunk, encode, length, way) for chunk in chunks]
                outputs[name] = np.concatenate(states, 1).astype(value.dtype)
        return outputs

    def get(self, name, text=None):  # None where it was not made; what is the same for all texts is kept under None
        return self.values.get((name, text), self.values.get((name, None)))

    def number(self, name):  # of a ramp, one per frame
        ramp = self.pipeline["numbers"].get(name, {}).get("ramp")
        if not ramp:
            return self.numbers[name]
        first, last = (self.numbers[edge] for edge in ramp)
        step = (last - first) / (self.frames - 1) if self.frames > 1 else 0
        return np.array([first + k * step for k in range(self.frames)], F).reshape(-1, 1, 1, 1)

    def plans(self, component):
        own = (plan for plan in self.manifest["plans"] if self.target in plan.get("targets", [self.target]))
        return [plan for plan in own if plan["component"] == component]

    def plan(self, component, batch, text=None):
        place = {"batch": batch, "tokens": self.texts.length * self.texts.count(text), **self.place}
        return next((p for p in self.plans(component) if p["sizes"].items() <= place.items()), None)

    def zeros(self, component, port, batch=1, text=None):
        operands = json.loads(self.read(self.plan(component, batch, text)["file"]))["operands"]
        found = next(one for one in operands if one["name"] == port)
        return np.zeros(found["shape"], np.float16 if found["dtype"] == "f16" else F)

    def role(self, role, texts):  # outside of the loop, for each text
        feeds = role["feed"].values()
        reads = {one["value"] for one in feeds if "value" in one and "absent" not in one}
        pictures = {one["picture"] for one in feeds if "picture" in one}
        if reads <= {name for name, _ in self.values} and all(map(self.pictures.has, pictures)):
            for text in texts:
                if self.texts.words.get(text) is None and any("tokens" in one and "absent" in one for one in feeds):
                    outputs = {port: self.zeros(role["run"], port) for port in role["keep"]}
                elif any("tokens" in one for one in feeds):
                    outputs = self.encoded(role, text)
                else:
                    inputs = {port: self.feed(role, port, text) for port in role["feed"]}
                    outputs = self.run(role["run"], self.plan(role["run"], 1, text)["sizes"], inputs)
                self.values |= {(name, text): outputs[port] for port, name in role["keep"].items()}

    def chunks(self, role):  # for so many frames at a time
        last = [*self.pipeline["after"], *self.pipeline.get("fast", ())]
        made = [one["keep"].values() for one in last if one["every"] == "chunk"]
        cut = {"latents", *itertools.chain(*made)}
        counts = {plan["sizes"].get("frames", 1) for plan in self.plans(role["run"])}
        whole, place, parts, done = dict(self.values), self.place, [], 0
        while done < self.frames:
            count = max(count for count in counts if count <= self.frames - done)
            self.place = place | {"frames": count}
            self.values |= {key: whole[key][done : done + count] for key in whole if key[0] in cut}
            inputs = {port: self.feed(role, port, None) for port in role["feed"]}
            parts.append(self.run(role["run"], self.plan(role["run"], 1)["sizes"], inputs))
            done += count
        self.values, self.place = whole, place
        for port, name in role["keep"].items():
            self.values[name, None] = np.concatenate([part[port] for part in parts])

    def feed(self, role, port, text):
        feed = role["feed"][port]
        if "numbers" in feed:
            listed = [one[text[0]] if isinstance(one, dict) else one for one in feed["numbers"]]
            return np.array([[self.numbers.get(one, one) for one in listed]], F)
        if "picture" in feed:
            prepared = self.pictures.prepare(feed["picture"])
            scale = self.numbers.get(feed.get("noise"), feed.get("noise"))
            return prepared if scale is None else prepared + F(scale) * self.noise.draw(prepared.shape)
        value = self.get(feed["value"], text)
        return self.zeros(role["run"], port, 1, text) if value is None else value

    def passes(self, loop):
        guided = loop.get("guided")
        if guided and np.max(self.number(guided["number"])) <= guided["above"]:
            return [loop["passes"][guided["alone"]]]
        return loop["passes"]

    def denoise(self, table, noise, image, mask=None):
        calls, begin, chosen = table["calls"], (table["start_image"], table["start_noise"]), dict(self.numbers)
        noised = table["noised"] if mask is not None else []
        strength = 1 if image is None else self.numbers[self.pipeline["latents"]["strength"]]
        from_image = image is not None and (mask is None or strength < 1)
        if from_image:
            wanted = table["steps"] * strength
            left = int(wanted)
            if self.pipeline["latents"].get("rounds") == "up":
                left = table["steps"] - int(table["steps"] - wanted)
            skipped = table["steps"] - left
            calls, begin, noised = calls[skipped:], table["begins"][skipped], noised[skipped:]
        slots = {0: F(begin[0]) * image + F(begin[1]) * noise if from_image else F(begin[1]) * noise}
        for i, call in enumerate(calls):
            for name, number in self.pipeline["numbers"].items():
                if "window" in number:
                    first, last = (chosen[edge] for edge in number["window"])
                    inside = i / len(calls) >= first and (i + 1) / len(calls) <= last
                    self.numbers[name] = chosen[name] if inside else 0.0
            self.values["latents", None] = slots[call["sample"]] * F(call["input_scale"])
            self.values["timestep", None] = np.array([call["timestep"]], F)
            for loop in self.pipeline["denoise"]:
                first, last = (self.numbers.get(loop[edge], loop[edge]) for edge in ("from", "until"))
                if first <= i / len(calls) < last:
                    slots[-1] = self.predict(loop)
            if call["draws_noise"]:
                slots[-2] = self.noise.draw(noise.shape)
            for row in call["rows"]:
                terms = (F(weight) * slots[source] for source, weight in row["terms"])
                slots[row["slot"]] = sum(terms, np.zeros_like(noise))
            if mask is not None:
                slot = calls[i + 1]["sample"] if i + 1 < len(calls) else table["result"]
                kept = F(noised[i][0]) * image + F(noised[i][1]) * noise
                slots[slot] = (F(1) - mask) * kept + mask * slots[slot]
        return slots[table["result"]]

    def running(self, loop):  # without roles of pictures that were not given, and those that read what these keep
        found, lost = [], set()
        for role in loop["roles"]:
            feeds = role["feed"].values()
            absent = any("picture" in one and not self.pictures.has(one["picture"]) for one in feeds)
            if absent or any(one.get("value") in lost and "absent" not in one for one in feeds):
                lost |= set(role["keep"].values())
            else:
                found.append(role)
        return found

    def predict(self, loop):
        keys, count = self.texts.keys, self.texts.count
        passes = [[one | {"text": key} for key in keys.get(one.get("text"), [None])] for one in self.passes(loop)]
        parts, roles = [(i, k, one) for i, own in enumerate(passes) for k, one in enumerate(own)], self.running(loop)
        groups, outputs = [], {}
        for chunks in dict.fromkeys(count(one["text"]) for *_, one in parts):
            alike = [part for part in parts if count(part[2]["text"]) == chunks]
            at_once = all(self.plan(role["run"], len(alike), alike[0][2]["text"]) for role in roles)
            groups += [alike] if at_once else [[part] for part in alike]
        for entries in groups:
            group = [one for *_, one in entries]
            joined = set()  # what roles of this call made, of all passes
            for role in roles:
                inputs = {}
                for port, feed in role["feed"].items():
                    name, text = feed.get("value"), group[0]["text"]
                    if name == "timestep":
                        inputs[port] = self.get(name)
                        continue
                    if name in joined:
                        values = np.split(self.get(name), len(group))
                    elif name is not None and self.get(name, text) is None:
                        values = np.split(self.zeros(role["run"], port, len(group), text), len(group))
                    else:
                        values = [self.feed(role, port, one["text"]) for one in group]
                    for k, one in enumerate(group):
                        values[k] = np.zeros_like(values[k]) if name in one.get("zeros", ()) else values[k]
                    inputs[port] = np.concatenate(values)
                result = self.run(role["run"], self.plan(role["run"], len(group), group[0]["text"])["sizes"], inputs)
                self.values |= {(name, None): result[port] for port, name in role["keep"].items()}
                joined |= set(role["keep"].values())
            made = np.split(self.get(loop["prediction"]), len(group))
            outputs |= {entry[:2]: value for entry, value in zip(entries, made, strict=True)}
        if len(passes) < len(loop["passes"]):
            return outputs[0, 0]

        def added(total, number, plus, minus):
            for k, part in enumerate(passes[plus]):
                away = outputs[plus, k] - outputs[minus, 0]
                total = total + np.asarray(number, F) * F(self.texts.weights[part["text"]]) * away
            return total

        prediction, add = outputs[loop["combine"]["first"], 0], loop["combine"]["add"]
        for number, plus, minus in add:
            prediction = added(prediction, self.number(number), plus, minus)
        if (phi := F(self.numbers[loop["rescale"]] if "rescale" in loop else 0)) == 0:
            return prediction
        _, plus, minus = add[-1]
        text = outputs[plus, 0] if len(passes[plus]) == 1 else added(outputs[minus, 0], 1, plus, minus)
        deviation = np.std(text, ddof=1, dtype=np.float64) / np.std(prediction, ddof=1, dtype=np.float64)
        return phi * (prediction * F(deviation)) + (F(1) - phi) * prediction

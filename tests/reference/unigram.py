"""T5's tokenizer, written from docs/tokenizer.md alone."""

import json
import math
import struct

import numpy as np

WHITE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


class Unigram:
    def __init__(self, files):
        whole, table = json.loads(files["unigram.json"]), files.get("charsmap.bin", b"")
        size = struct.unpack("<I", table[:4])[0] if table else 0
        self.units, self.texts = struct.unpack(f"<{size // 4}I", table[4 : 4 + size]), table[4 + size :]
        self.pieces = {text: (i, score) for i, (text, score) in enumerate(whole["pieces"]) if score is not None}
        self.added = {token["content"]: (int(i), token) for i, token in whole["added"].items()}
        self.unknown, self.end, self.pad = whole["unknown"], whole["end"], whole["padding"]
        self.penalty = min(score for _, score in self.pieces.values()) - 10

    def ids(self, text):
        found, rest, start = [], "", 0
        while start < len(text):
            names = [name for name in self.added if text.startswith(name, start)]
            if not names:
                rest, start = rest + text[start], start + 1
                continue
            index, token = self.added[max(names, key=len)]
            found += [*self.cut(rest.rstrip(WHITE) if token["lstrip"] else rest), index]
            rest, start = "", start + len(token["content"])
            while token["rstrip"] and start < len(text) and text[start] in WHITE:
                start += 1
        return [*found, *self.cut(rest), self.end]

    def cut(self, text):
        text = "".join("\u2581" + word for word in self.replaced(text).split(" ") if word)
        best = [(0, [])] + [(-math.inf, [])] * len(text)
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                index, score = self.pieces.get(text[start:end], (None, 0))
                if index is None and end == start + 1:
                    index, score = self.unknown, self.penalty
                if index is not None and best[start][0] + score > best[end][0]:
                    best[end] = best[start][0] + score, [*best[start][1], index]
        ids = best[-1][1]
        return [i for k, i in enumerate(ids) if i != self.unknown or not k or ids[k - 1] != self.unknown]

    def replaced(self, text):
        data, at, out = text.encode(), 0, b""
        while at < len(data):
            ends = [n for n in range(at + 1, min(at + 64, len(data)) + 1) if n == len(data) or data[n] & 0xC0 != 0x80]
            hits = [(end, new) for end in ends if (new := self.entry(data[at:end])) is not None]
            end, new = hits[-1] if hits else (ends[0], data[at : ends[0]])
            at, out = end, out + new
        return out.decode()

    def entry(self, key):
        if not self.units:
            return None
        node = self.step(0)
        for byte in key:
            node ^= byte
            if node >= len(self.units) or self.units[node] & 0x800000FF != byte:
                return None
            unit, node = self.units[node], node ^ self.step(node)
        if not unit & 0x100 or node >= len(self.units):
            return None
        start = self.units[node] & 0x7FFFFFFF
        if start >= len(self.texts) or self.texts[start] & 0xC0 == 0x80:
            return None
        return self.texts[start : self.texts.index(b"\0", start)]

    def step(self, node):
        unit = self.units[node]
        return unit >> 10 << (8 if unit & 0x200 else 0)


class T5(Unigram):  # as a player asks for a tokenizer: ids without the end, and of a text of `length`
    comma = None

    def __init__(self, files, length):
        super().__init__(files)
        self.length = length

    def spelled(self, text):
        return text

    def encode(self, text):
        return self.ids(text)[:-1]

    def padded(self, ids):
        ids = [*ids[: self.length - 1], self.end]
        return np.array([[*ids, *[self.pad] * (self.length - len(ids))]], np.int32)

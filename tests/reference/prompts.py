"""Prompts and weighted states, written from docs/prompts.md and docs/pipeline.md alone."""

import math
import re

import numpy as np

F = np.float32
WHITE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
WORD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"


def kept(weight):
    return min(max(weight, -1000.0), 1000.0)


def split(text, word):  # at each `word` that is no part of another
    found, start = [], 0
    while (at := text.find(word, start)) >= 0:
        start = at + len(word)
        if (text[at - 1 : at] not in WORD or at == 0) and (start == len(text) or text[start] not in WORD):
            found.append((at, start))
    edges = [0, *(edge for pair in found for edge in pair), len(text)]
    return [text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2)]


def number_at(text, at):  # (number, where what follows the white space after it is), of what follows a colon
    while at < len(text) and text[at] in WHITE:
        at += 1
    if (match := NUMBER.match(text, at)) is None:
        return None
    end = match.end()
    while end < len(text) and text[end] in WHITE:
        end += 1
    return kept(float(match[0])), end


def parts(text):
    found = split(text, "AND")
    return [weight_at_end(part) for part in found] if len(found) > 1 else [(text, 1.0)]


def weight_at_end(part):
    at = part.rfind(":")
    number = number_at(part, at + 1) if at >= 0 else None
    return (part[:at], number[0]) if number and number[1] == len(part) else (part, 1.0)


def sections(text):  # lists of [text, weight]
    pieces, opened, at, words = [], {"(": [], "[": []}, 0, ""

    def times(start, factor):
        for piece in pieces[start:]:
            if piece is not None:
                piece[1] = kept(piece[1] * factor)

    def flush():
        nonlocal words
        for i, part in enumerate(found := split(words, "BREAK")):
            pieces.extend([None] if i else [])
            part = part.lstrip(WHITE) if i else part
            pieces.append([part.rstrip(WHITE) if i < len(found) - 1 else part, 1.0])
        words = ""

    while at < len(text):
        sign, number = text[at], None
        if sign == ":" and (number := number_at(text, at + 1)) and text[number[1] : number[1] + 1] != ")":
            number = None
        if sign not in "()[]\\" and number is None:
            words, at = words + sign, at + 1
            continue
        flush()
        end = at + 1 if number is None else number[1] + 1
        if sign == "\\":
            end += text[end : end + 1] in tuple("()[]\\")
            pieces.append([text[at + 1 : end], 1.0])
        elif sign in "([":
            opened[sign].append(len(pieces))
        elif opened[kind := "[" if sign == "]" else "("]:
            times(opened[kind].pop(), number[0] if number else 1.1 if kind == "(" else 1 / 1.1)
        else:
            pieces.append([text[at:end], 1.0])
        at = end
    flush()
    for kind, factor in (("(", 1.1), ("[", 1 / 1.1)):
        for start in opened[kind]:
            times(start, factor)
    found = [[]]
    for piece in pieces:
        if piece is None:
            found.append([])
        elif piece[0] and found[-1] and found[-1][-1][1] == piece[1]:
            found[-1][-1][0] += piece[0]
        elif piece[0]:
            found[-1].append(piece)
    return found


def tokens(read, encode):  # per section (id, weight, piece); `encode`: ids of a text
    number, found = 0, []
    for section in read:
        found.append([])
        for text, weight in section:
            found[-1] += [(index, weight, number) for index in encode(text)]
            number += 1
    return found


def chunks(listed, length, comma_id):
    room, done = length - 2, []
    for last, section in enumerate(listed, 1 - len(listed)):
        chunk, comma = [], None
        for token in section:
            if token[0] == comma_id:
                comma = len(chunk)
            elif len(chunk) == room and comma is not None and room - comma <= 20:
                done.append(chunk[: comma + 1])
                chunk, comma = chunk[comma + 1 :], None
            if len(chunk) == room:
                done.append(chunk)
                chunk, comma = [], None
            chunk.append(token)
        if last < 0 or chunk or not done:
            done.append(chunk)
    return done


def truncated(listed, length):
    return [token for section in listed for token in section][: length - 2]


def states(chunk, encode, length, way):  # `encode`: a chunk's states, f32 [1, length, width]
    def weights(chunk):
        return np.array([1, *(token[1] for token in chunk), *[1] * (length - 1 - len(chunk))], F)[:, np.newaxis]

    def moved(chunk):
        z, w = encode(chunk), weights(chunk)
        return np.where(w == 1, z, empty + w * (z - empty))

    z = encode(chunk)
    if way == "none" or all(token[1] == 1 for token in chunk):
        return z
    if way == "mean":
        before, z = z.mean(dtype=np.float64), weights(chunk) * z
        after = z.mean(dtype=np.float64)
        return F(before / after if after else 1) * z
    empty, lessened = encode([]), {token[2]: token[1] for token in chunk if token[1] < 1}
    parts = {k: math.tan((1 - max(weight, 0.00001)) * math.pi / 2) for k, weight in lessened.items()}
    total = sum(parts.values(), 1.0)
    z = F(1 / total) * moved(chunk)
    for k, part in parts.items():
        z = z + F(part / total) * moved([token for token in chunk if token[2] != k])
    return z


class Texts:  # of one picture. A part's key is (its text's name, its place); of each its weight and words
    def __init__(self, manifest, tokenizers, texts, emphasis):
        loops, lengths, self.emphasis = manifest["pipeline"]["denoise"], {}, emphasis
        self.length = max((one.length for one in tokenizers.values()), default=1)
        for plan in manifest["plans"]:
            if "tokens" in plan["sizes"]:
                lengths.setdefault(plan["component"], set()).add(plan["sizes"]["tokens"] // self.length)
        most = max(set.intersection(*lengths.values()) if lengths else {1})
        first = {loop["passes"][loop["combine"]["first"]].get("text") for loop in loops}
        plus, minus = (
            {loop["passes"][add[side]].get("text") for loop in loops for add in loop["combine"]["add"]}
            for side in (1, 2)
        )
        self.keys, self.weights, self.words, self.found = {}, {None: 1}, {None: None}, {}
        for name, text in texts.items():
            whole = text is None or emphasis == "none" or name not in plus - minus - first
            for place, (words, weight) in enumerate([(text, 1)] if whole else parts(text)):
                self.keys.setdefault(name, []).append(key := (name, place))
                self.weights[key], self.words[key] = weight, words
                read = [[[words or "", 1]]] if emphasis == "none" else sections(words or "")
                for by, one in tokenizers.items():
                    listed = tokens(read, lambda piece, one=one: one.encode(one.spelled(piece)))
                    several = chunks(listed, one.length, one.comma)[:most]
                    self.found[key, by] = several if most > 1 else [truncated(listed, one.length)]

    def count(self, key):
        return max((len(found) for (of, _), found in self.found.items() if of == key), default=1)

    def chunks(self, key, tokenizer):
        return self.found[key, tokenizer] + [[]] * (self.count(key) - len(self.found[key, tokenizer]))

"""A zlib stream (RFC 1950, 1951) whose bytes any player can write: Huffman codes over bytes and runs of equal bytes.

docs/png.md says each choice that the format leaves to a writer. Filtered pictures hold few longer repeats, so it
compresses them about as zlib does at its default level, whose bytes depend on its version.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 1 << 16  # bytes of a block, which has codes of its own
SHORTEST, LONGEST = 10, 258  # bytes that a match repeats
END = 256  # ends a block
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_HEAD = b"\x78\x9c"  # a window of 32 KiB


def _length_codes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(symbol, extra bits, their value) of each length 0..258."""
    symbols, bits, values = (np.zeros(LONGEST + 1, np.int64) for _ in range(3))
    length = 3
    for symbol in range(257, 285):
        extra = max(0, (symbol - 261) // 4)
        for value in range(1 << extra):
            symbols[length], bits[length], values[length] = symbol, extra, value
            length += 1
    symbols[LONGEST], bits[LONGEST], values[LONGEST] = 285, 0, 0
    return symbols, bits, values


_SYMBOLS, _EXTRA_BITS, _EXTRA = _length_codes()


class Bits(NamedTuple):
    """Values to write one after the other, each from its lowest bit on, and how many bits of each."""

    values: np.ndarray  # int64
    widths: np.ndarray  # int64, 0..31


def zlib_stream(data: np.ndarray) -> bytes:
    """uint8[n], n of 1 or more, as a zlib stream."""
    out, rest = [_HEAD], Bits(np.zeros(1, np.int64), np.zeros(1, np.int64))
    for start in range(0, len(data), BLOCK):
        block = _block(data[start : start + BLOCK], start + BLOCK >= len(data))
        words, rest = _packed([rest, *block])
        out.append(words)
    tail = int(rest.values[0]).to_bytes(4, "little")[: -(-int(rest.widths[0]) // 8)]
    return b"".join([*out, tail, zlib.adler32(data.tobytes()).to_bytes(4, "big")])


def _block(data: np.ndarray, last: bool) -> Iterator[Bits]:
    """A block with codes of its own."""
    literals, lengths = tokens(data)
    symbols = np.where(lengths > 0, _SYMBOLS[lengths], literals)
    counts = np.bincount(symbols, minlength=286)
    counts[END] = 1
    widths = code_lengths(counts, 15)
    codes = reversed_codes(widths)
    used = max(257, int(np.flatnonzero(widths)[-1]) + 1)
    yield _header([*widths[:used].tolist(), 1], last)
    values, bits = codes[symbols], widths[symbols]
    is_run = np.flatnonzero(lengths)
    run = lengths[is_run]
    values[is_run] |= _EXTRA[run] << bits[is_run]
    bits[is_run] += _EXTRA_BITS[run] + 1  # and a zero bit: the only distance, 1
    yield Bits(values, bits)
    yield Bits(codes[END : END + 1], widths[END : END + 1])


def tokens(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is written of uint8[n]: (bytes, lengths), int64[m] each; where a length is not 0, the byte before is
    repeated so often instead."""
    starts = np.flatnonzero(np.concatenate([[True], data[1:] != data[:-1]]))
    repeats = np.diff(np.append(starts, len(data))) - 1
    full, rest = np.divmod(repeats, LONGEST)
    short = rest < SHORTEST
    # Of each run: its first byte, `full` longest matches, then a match or a few bytes.
    counts = 1 + full + np.where(short, rest, 1)
    first = np.cumsum(counts) - counts
    literals = np.repeat(data[starts].astype(np.int64), counts)
    lengths = np.zeros(len(literals), np.int64)
    (long,) = np.nonzero(full)
    for run in long:
        lengths[first[run] + 1 : first[run] + 1 + full[run]] = LONGEST
    lengths[(first + 1 + full)[~short]] = rest[~short]
    return literals, lengths


def code_lengths(counts: np.ndarray, most: int) -> np.ndarray:
    """Bits of each symbol's Huffman code, int64[n], at most `most`; 0 for those with no count. Two at least have one.

    Where a code would be longer, all counts are halved, rounded up, until none is.
    """
    counts = np.asarray(counts, np.int64)
    used = np.flatnonzero(counts)
    result = np.zeros(len(counts), np.int64)
    while True:
        order = used[np.argsort(counts[used], kind="stable")]
        depths = _depths(counts[order].tolist())
        if max(depths) <= most:
            result[order] = depths
            return result
        counts = (counts + 1) >> 1


def _depths(weights: list[int]) -> list[int]:
    """Depth of each leaf of a Huffman tree over ascending weights. Of two that weigh the same, a leaf is joined before
    a node, and what is older before what is newer."""
    leaves, count = len(weights), 2 * len(weights) - 1
    weights, parents = [*weights, *[0] * (leaves - 1)], [0] * count
    leaf, node = 0, leaves
    for new in range(leaves, count):
        for _ in range(2):
            if leaf < leaves and (node >= new or weights[leaf] <= weights[node]):
                child, leaf = leaf, leaf + 1
            else:
                child, node = node, node + 1
            weights[new] += weights[child]
            parents[child] = new
    depths = [0] * count
    for one in range(count - 2, -1, -1):
        depths[one] = depths[parents[one]] + 1
    return depths[:leaves]


def reversed_codes(widths: np.ndarray) -> np.ndarray:
    """RFC 1951's code of each symbol, its first bit the lowest, as it is written."""
    codes = np.zeros(len(widths), np.int64)
    code = 0
    for bits in range(1, 16):
        code <<= 1
        for symbol in np.flatnonzero(widths == bits):
            codes[symbol] = int(f"{code:0{bits}b}"[::-1], 2)
            code += 1
    return codes


def _header(lengths: list[int], last: bool) -> Bits:
    """The head of a block: that it has codes of its own, and their lengths (the last is the distance's)."""
    parts = list(_repeats(lengths))
    counts = np.bincount([symbol for symbol, _, _ in parts], minlength=19)
    widths = code_lengths(counts, 7)
    codes = reversed_codes(widths)
    listed = max(4, 1 + max(place for place, symbol in enumerate(ORDER) if widths[symbol]))
    pairs = [(int(last), 1), (2, 2), (len(lengths) - 1 - 257, 5), (0, 5), (listed - 4, 4)]
    pairs += [(int(widths[symbol]), 3) for symbol in ORDER[:listed]]
    for symbol, bits, value in parts:
        pairs += [(int(codes[symbol]), int(widths[symbol])), (value, bits)]
    values, sizes = zip(*pairs, strict=True)
    return Bits(np.array(values, np.int64), np.array(sizes, np.int64))


def _repeats(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Lengths of codes as RFC 1951 writes them: (symbol, extra bits, their value)."""
    at = 0
    while at < len(lengths):
        length, end = lengths[at], at + 1
        while end < len(lengths) and lengths[end] == length:
            end += 1
        if length:
            yield length, 0, 0
            at += 1
        while (left := end - at) >= 3:
            if length:
                yield 16, 2, min(left, 6) - 3
                at += min(left, 6)
            elif left < 11:
                yield 17, 3, left - 3
                at += left
            else:
                yield 18, 7, min(left, 138) - 11
                at += min(left, 138)
        for _ in range(end - at):
            yield length, 0, 0
        at = end


def _packed(parts: list[Bits]) -> tuple[bytes, Bits]:
    """Values as whole words of 32 bits, and the bits that are left over."""
    values = np.concatenate([part.values for part in parts]).astype(np.uint64)
    widths = np.concatenate([part.widths for part in parts])
    ends = np.cumsum(widths)
    begins = ends - widths
    words = begins >> 5
    first = np.flatnonzero(np.diff(words, prepend=-1))
    shifted = np.add.reduceat(values << (begins & 31).astype(np.uint64), first)  # bits are apart: a sum is an or
    out = np.zeros(int(words[-1]) + 2, np.uint64)
    out[words[first]] = shifted & np.uint64(0xFFFFFFFF)
    out[words[first] + 1] += shifted >> np.uint64(32)
    whole, left = divmod(int(ends[-1]), 32)
    return out[:whole].astype("<u4").tobytes(), Bits(out[whole : whole + 1].astype(np.int64), np.array([left]))

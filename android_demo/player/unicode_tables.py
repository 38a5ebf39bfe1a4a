"""Writes src/text/unicode_tables.inc: what the tokenizer must know of Unicode (docs/tokenizer.md, "Unicode").

    python android_demo/player/unicode_tables.py

Letters, numbers, word letters and lower case are asked of the `tokenizers` package itself, because ids are to be its
ids; so is which marks its normal form, of an older Unicode than the rest, puts in order. Decompositions and classes are
those of Python's `unicodedata`.
"""

import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers.models import BPE

FILE = Path(__file__).parent / "src" / "text" / "unicode_tables.inc"
LETTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
WIDTH = 120


def main() -> None:
    """Write the file."""
    FILE.write_text(tables())
    print(f"{FILE}: {FILE.stat().st_size} bytes")


def tables() -> str:
    """All of the file."""
    classes, lower = ranges(classes_of_letters()), lower_case()
    marks = ranges(mark_classes())
    pairs, order = decompositions()
    return "\n".join(
        [
            "// Written by unicode_tables.py; not to be changed by hand.",
            f"// tokenizers {tokenizers.__version__}, unicodedata {unicodedata.unidata_version}.",
            "",
            "// Letters `first` to `last`: 1 a letter, 2 a number, 4 part of a word, or a sum of these.",
            table("ClassRange kClasses", [f"{{{first}, {last}, {value}}}" for first, last, value in classes]),
            "// Combining classes that are not 0.",
            table("ClassRange kMarks", [f"{{{first}, {last}, {value}}}" for first, last, value in marks]),
            "// Each `step`th letter of `first` to `last` becomes the one `shift` behind it.",
            table("CaseRange kLower", ["{" + ", ".join(map(str, row)) + "}" for row in lower]),
            "// Letters and the one or two (else 0) that they are made of.",
            table("Pair kPairs", ["{" + ", ".join(map(str, row)) + "}" for row in pairs]),
            "// Those of kPairs whose two letters are joined, ordered by `first` and then by `second`.",
            table("u16 kJoins", list(map(str, order))),
        ]
    )


def table(name: str, items: list[str]) -> str:
    """`constexpr NAME[] = {...};`, in lines."""
    lines = [f"constexpr {name}[] = {{"]
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line, "};", ""])


def ranges(values: dict[int, int]) -> list[tuple[int, int, int]]:
    """(first, last, value) of letters in a row with one value."""
    found: list[tuple[int, int, int]] = []
    for code, value in sorted(values.items()):
        if found and found[-1][1] == code - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], code, value)
        else:
            found.append((code, code, value))
    return found


def classes_of_letters() -> dict[int, int]:
    """Letter -> 1 (L), 2 (N) and 4 (part of a word), summed."""
    found: dict[int, int] = {}
    for pattern, value in ((r"\p{L}", 1), (r"\p{N}", 2)):
        splitter = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        for letter, _ in splitter.pre_tokenize_str("".join(LETTERS)):
            found[ord(letter)] = found.get(ord(letter), 0) + value
    # A token that must stand alone is not found before a letter of a word.
    probe = tokenizers.Tokenizer(BPE({"x": 0}, [], unk_token="x"))
    probe.add_tokens([AddedToken("\ue000", single_word=True, normalized=False)])
    encoding = probe.encode("".join(f"\ue000{letter}\n" for letter in LETTERS))
    alone = {start for index, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if index == 1}
    for place, letter in enumerate(LETTERS):
        if 3 * place not in alone and letter != "\ue000":
            found[ord(letter)] = found.get(ord(letter), 0) + 4
    return found


def mark_classes() -> dict[int, int]:
    """Combining classes that are not 0, of the marks that the normal form puts in order."""
    marks = [letter for letter in LETTERS if unicodedata.combining(letter)]
    tests = [text for mark in marks for text in (f"a{mark}\u0334", f"a\u0345{mark}")]
    got = normalizers.NFD().normalize_str("\n".join(tests)).split("\n")
    known = [result == unicodedata.normalize("NFD", test) for test, result in zip(tests, got, strict=True)]
    return {
        ord(mark): unicodedata.combining(mark)
        for mark, before, after in zip(marks, known[::2], known[1::2], strict=True)
        if before and after
    }


def lower_case() -> list[tuple[int, int, int, int]]:
    """(first, last, step, shift); U+0130, which becomes two letters, is left out."""
    letters = [letter for letter in LETTERS if letter not in "\n\u0130"]
    lowered = normalizers.Lowercase().normalize_str("\n".join(letters)).split("\n")
    found: list[list[int]] = []
    for letter, low in zip(letters, lowered, strict=True):
        if low == letter:
            continue
        code, shift = ord(letter), ord(low) - ord(letter)
        if found:
            first, last, step, same = found[-1]
            gap = code - last
            if same == shift and gap in (1, 2) and (first == last or gap == step):
                found[-1] = [first, code, gap, shift]
                continue
        found.append([code, code, 1, shift])
    return [tuple(row) for row in found]  # type: ignore[misc]


def decompositions() -> tuple[list[tuple[int, int, int]], list[int]]:
    """(letter, first, second or 0), but for Hangul, which is computed; and the order of those that are joined."""
    apart, together = normalizers.NFD(), normalizers.NFC()
    pairs = []
    for letter in LETTERS:
        parts = unicodedata.decomposition(letter).split()
        if parts and not parts[0].startswith("<") and apart.normalize_str(letter) != letter:
            first, second = (int(part, 16) for part in [*parts, "0"][:2])
            pairs.append((ord(letter), first, second))
    joined = [
        i
        for i, (letter, first, second) in enumerate(pairs)
        if second and together.normalize_str(chr(first) + chr(second)) == chr(letter)
    ]
    return pairs, sorted(joined, key=lambda i: pairs[i][1:])


if __name__ == "__main__":
    main()

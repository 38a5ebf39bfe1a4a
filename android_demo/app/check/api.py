"""Whether what the app uses of Android is there, with the types that it has on a phone.

The app is compiled against android.* of the host (../host), written by hand. Here every method and field that its
classes name, and every constant of the host's classes, is looked up in the declarations that the NativeScript project
generates from Android's own android.jar (npm's package @nativescript/types-android), with the API level of each.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NUMBERS = set("BSIJFDC")
# Used behind a check of Build.VERSION.SDK_INT.
GUARDED = {
    "android.os.Build.SOC_MANUFACTURER": 31,
    "android.os.Build.SOC_MODEL": 31,
    "android.os.PowerManager.getCurrentThermalStatus": 29,
}


@dataclass
class Declared:
    """A class of the declarations. A member is its name and the text of its types; since which level."""

    bases: list[str] = field(default_factory=list)
    methods: dict[str, list[tuple[list[str], str, int]]] = field(default_factory=dict)
    fields: dict[str, tuple[str, int]] = field(default_factory=dict)


def declarations(path: Path) -> dict[str, Declared]:
    """Classes by dotted name."""
    classes: dict[str, Declared] = {}
    scope: list[str] = []
    depths: list[int] = []
    depth, since = 0, 1
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("/**"):
            level = re.search(r"@since (\d+)", text)
            since = int(level[1]) if level else since
            continue
        opened = re.match(r"(?:declare|export) (?:abstract )?(module|class|interface) ([\w.$]+)", text)
        if opened and text.endswith("{"):
            scope.append(opened[2])
            depths.append(depth)
            if opened[1] != "module":
                bases = re.sub(r"<.*?>+", "", text[opened.end() : -1])
                found = re.findall(r"[\w.$]+\.[\w.$]+", bases)
                classes.setdefault(".".join(scope), Declared()).bases = found
        elif scope and ".".join(scope) in classes and depth == depths[-1] + 1:
            _member(classes[".".join(scope)], text, since)
        depth += text.count("{") - text.count("}")
        while depths and depth <= depths[-1]:
            scope.pop()
            depths.pop()
        since = 1
    return classes


def _member(declared: Declared, text: str, since: int) -> None:
    method = re.match(r"(?:public |protected )?(?:static )?(?:abstract )?([\w$]+)(?:<.*?>)?\((.*)\)(?:: (.*))?;$", text)
    if method:
        takes = [_plain(one.split(":", 1)[1]) for one in _parts(method[2])]
        declared.methods.setdefault(method[1], []).append((takes, _plain(method[3] or "void"), since))
        return
    value = re.match(r"(?:public |protected )?(?:static )?(?:readonly )?([\w$]+): (.*);$", text)
    if value:
        declared.fields[value[1]] = (value[2], since)


def _parts(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text + ","):
        depth += (
            {"(": 1, "<": 1, "{": 1, ")": -1, ">": -1, "}": -1}.get(char, 0) if text[at - 1 : at + 1] != "=>" else 0
        )
        if char == "," and depth == 0:
            parts += [text[begin:at]] if text[begin:at].strip() else []
            begin = at + 1
    return parts


def _plain(text: str) -> str:
    return re.sub(r"<.*>", "", text.replace(" | null", "").strip())


@dataclass
class ClassFile:
    """What is needed of a class: its names, what it refers to, and its own members and constants."""

    name: str
    bases: list[str]
    references: list[tuple[str, str, str]]  # class, member, descriptor
    members: list[tuple[str, str]]
    constants: dict[str, int | float | str]


def class_file(data: bytes) -> ClassFile:
    """Parse a class that javac has just written."""
    pool: list[tuple[int, tuple[int, ...] | bytes | int | float]] = [(0, ())]
    count, at = struct.unpack_from(">H", data, 8)[0], 10
    while len(pool) < count:
        tag = data[at]
        if tag == 1:
            size = struct.unpack_from(">H", data, at + 1)[0]
            pool.append((tag, data[at + 3 : at + 3 + size]))
            at += 3 + size
            continue
        form = {3: ">i", 4: ">f", 5: ">q", 6: ">d", 15: ">BH"}.get(tag, ">H" if tag in (7, 8, 16) else ">HH")
        found = struct.unpack_from(form, data, at + 1)
        pool.append((tag, found[0] if tag in (3, 4, 5, 6) else found))
        pool += [(0, ())] if tag in (5, 6) else []
        at += 1 + struct.calcsize(form)

    def text(index: int) -> str:
        return pool[index][1].decode()  # type: ignore[union-attr]

    def named(index: int) -> str:
        return text(pool[index][1][0]) if index else ""  # type: ignore[index]

    _, this, parent, interfaces = struct.unpack_from(">4H", data, at)
    at += 8
    bases = [named(parent), *(named(one) for one in struct.unpack_from(f">{interfaces}H", data, at))]
    at += 2 * interfaces
    references = []
    for tag, value in pool:
        if tag in (9, 10, 11):
            owner, member = value  # type: ignore[misc]
            name, descriptor = pool[member][1]  # type: ignore[misc]
            references.append((named(owner), text(name), text(descriptor)))
    tables: list[list[tuple[str, str]]] = []
    constants: dict[str, int | float | str] = {}
    for _ in range(2):  # fields, methods
        members = []
        for _ in range(struct.unpack_from(">H", data, at)[0]):
            _, name, descriptor, attributes = struct.unpack_from(">4H", data, at + 2)
            at += 8
            members.append((text(name), text(descriptor)))
            for _ in range(attributes):
                key, size = struct.unpack_from(">HI", data, at + 2)
                if text(key) == "ConstantValue":
                    tag, value = pool[struct.unpack_from(">H", data, at + 8)[0]]
                    constants[text(name)] = text(value[0]) if tag == 8 else value  # type: ignore[index, assignment]
                at += 6 + size
        at += 2
        tables.append(members)
    return ClassFile(named(this), bases, references, tables[0] + tables[1], constants)


def types_of(descriptor: str) -> list[str]:
    """A method's parameters and result, each as a descriptor."""
    return re.findall(r"\[*(?:L[^;]+;|[A-Z])", descriptor)


def _fits(descriptor: str, declared: str) -> bool:
    if descriptor[0] == "[":
        return "Array" in declared
    if descriptor in ("V", "Z"):
        return declared == {"V": "void", "Z": "boolean"}[descriptor]
    if descriptor in NUMBERS:
        return declared == "number"
    dotted = re.sub(r"[/$]", ".", descriptor[1:-1])
    return declared in (dotted, "any") or ("lang" in dotted and declared in ("string", dotted.rsplit(".", 1)[1]))


def _lineage(classes: dict[str, Declared], name: str) -> Iterator[tuple[str, Declared]]:
    if name in classes:
        yield name, classes[name]
        for base in classes[name].bases:
            yield from _lineage(classes, base)


def _owner(own: dict[str, ClassFile], owner: str, member: str, descriptor: str) -> str:
    """The class of Android that a member is inherited from, as of an activity; the class itself where it is none's."""
    while owner in own and (member, descriptor) not in own[owner].members:
        owner = next((base for base in own[owner].bases if base.startswith("android/")), own[owner].bases[0])
    return owner


def _missing(classes: dict[str, Declared], owner: str, member: str, descriptor: str, level: int) -> str | None:
    """Why a member cannot be used at this level; None if it can, and of what is not Android's."""
    if not owner.startswith("android/"):
        return None
    dotted = re.sub(r"[/$]", ".", owner)
    if dotted not in classes:
        return f"{dotted} is no class of Android"
    name = "constructor" if member == "<init>" else member
    allowed = max(level, GUARDED.get(f"{dotted}.{member}", 0))
    seen = []
    for _, declared in _lineage(classes, dotted):
        if not descriptor.startswith("("):
            if name in declared.fields and declared.fields[name][1] <= allowed:
                return None
            continue
        *takes, gives = types_of(descriptor)
        for parameters, result, since in declared.methods.get(name, []):
            same = len(takes) == len(parameters) and all(map(_fits, takes, parameters))
            if same and (name == "constructor" or _fits(gives, result)):
                if since <= allowed:
                    return None
                seen.append(f"is there since API {since}")
            else:
                seen.append(f"takes ({', '.join(parameters)}) and gives {result}")
        if name == "constructor":
            break
    shown = member + (descriptor if descriptor.startswith("(") else "")
    return f"{dotted}.{shown} " + ("; or ".join(seen) or "is not there")


def wrong(types: Path, used: list[ClassFile], host: list[ClassFile], level: int) -> list[str]:
    """What the classes of the app (`used`) name that a phone of API `level` has not, and the host's false constants."""
    classes = declarations(types)
    own = {one.name: one for one in used}
    problems = set()
    for one in used:
        for owner, member, descriptor in one.references:
            problems.add(_missing(classes, _owner(own, owner, member, descriptor), member, descriptor, level))
        for base in one.bases:  # what the system calls
            for name, descriptor in one.members if base.startswith("android/") else []:
                if name.startswith("on") and descriptor.startswith("("):
                    problems.add(_missing(classes, base, name, descriptor, level))
    for one in host:
        dotted = re.sub(r"[/$]", ".", one.name)
        for name, value in one.constants.items():
            if name == "serialVersionUID":
                continue
            there = next((c.fields[name][0] for _, c in _lineage(classes, dotted) if name in c.fields), None)
            if there not in (str(value), f'"{value}"'):
                problems.add(f"{dotted}.{name} is {value} on the host and {there} on a phone")
    return sorted(problem for problem in problems if problem)

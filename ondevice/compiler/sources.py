"""The programs of a bundle as a driver builds them: defines, prelude and kernel, in one text per dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ondevice.base.publish import published, system
from ondevice.bundle.reader import Bundle
from ondevice.compiler.jobs import only
from ondevice.errors import UsageError
from ondevice.plan.plan import Kernel

ENDINGS = {"opencl": ".cl", "metal": ".metal"}


@dataclass(frozen=True, slots=True)
class Source:
    """One program: its text, and how many dispatches of each component's plans launch it."""

    kernel: Kernel
    text: str
    dispatches: Counter[str] = field(default_factory=Counter)

    def headed(self) -> str:
        """The text after a comment that says what it is."""
        defines = " ".join(f"{name}={value}" for name, value in self.kernel.defines)
        uses = ", ".join(f"{count:,} of {component}" for component, count in self.dispatches.items())
        return f"// {self.kernel.file}: {defines or 'no defines'}; dispatches: {uses}\n{self.text.rstrip()}\n"


def sources(bundle: Bundle, dialect: str, component: str | None = None) -> list[Source]:
    """Every program that the plans of a bundle, or of one component, launch: once each, in the order of first use.

    Raises:
        UsageError: the bundle has no such component.
        BundleError: it is damaged, or has no prelude of that dialect.
    """
    found: dict[Kernel, Source] = {}
    for entry in only(bundle.plans, component):
        plan = bundle.plan(entry.component, **entry.sizes)
        for kernel in (plan.kernels[call.kernel] for call in plan.dispatches):
            if kernel not in found:
                found[kernel] = Source(kernel, bundle.source(kernel.file, dialect, kernel.defines))
            found[kernel].dispatches[entry.component] += 1
    return list(found.values())


def write_sources(made: Iterable[Source], dialect: str, folder: Path) -> Path:
    """A file per program, for vendors' offline compilers, in a new folder: KERNEL-NUMBER.cl or .metal.

    Raises:
        UsageError: something is there already, or cannot be written.
    """

    def check(there: Path) -> None:
        if there.exists():
            raise UsageError("is there already.", where=str(folder), fix="choose another name with --out")

    check(folder)
    with published(folder, UsageError, check) as new, system(str(folder), UsageError):
        for name, source in _named(made):
            (new / f"{name}{ENDINGS[dialect]}").write_text(source.headed(), encoding="utf-8")
    return folder


def _named(made: Iterable[Source]) -> Iterator[tuple[str, Source]]:
    count: Counter[str] = Counter()
    for source in made:
        count[source.kernel.file] += 1
        yield f"{source.kernel.file}-{count[source.kernel.file]:02d}", source

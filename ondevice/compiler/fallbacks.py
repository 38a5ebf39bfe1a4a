"""Fallbacks: what was done in a worse way than there is, or not at all.
Each is logged with its reason; under --strict it is an error."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import onnx_ir as ir

from ondevice.bundle.format import MAX_REASONS
from ondevice.errors import StrictError
from ondevice.lower.program import Program
from ondevice.rewrite import Outcome, rewrite
from ondevice.target import ALL, FP32, METHODS

log = logging.getLogger(__name__)
MATH = "math"  # the family of rows that say what products are multiplied in
LISTED = 8  # fallbacks in the error's message


def rewritten(model: ir.Model, without: Collection[str] = ()) -> dict[str, Any]:
    """Rewrite a graph in place; returns what became of it as bundles record it (docs/bundle.md, `rewrite`)."""
    before = len(model.graph)
    outcomes = rewrite(model, without=without)
    return {"nodes": [before, len(model.graph)], "rules": [_row(outcome) for outcome in outcomes]}


def of_methods(program: Program, without: Collection[str]) -> list[dict[str, Any]]:
    """What became of the methods that lowering chooses among, as bundles record it beside the rules."""
    rows = []
    for method, use in program.methods.items():
        name = "".join(word.title() for word in method.split("_"))
        rows.append(_row(Outcome(name, method, use.applied, use.skipped, off=bool({method, ALL} & set(without)))))
    return rows


def of_math(program: Program) -> list[dict[str, Any]]:
    """What became of the math that products were asked for in, where that is not float32: a row like a method's."""
    if program.math == FP32:
        return []
    return [_row(Outcome(program.math.title(), MATH, program.in_math.applied, program.in_math.skipped))]


def of_products(row: Mapping[str, Any]) -> str:
    """What products are multiplied in, from what `rewritten` and `of_math` returned, in a line; "" where nothing but
    float32 was asked for."""
    found = next((rule for rule in row["rules"] if rule["family"] == MATH), None)
    if found is None:
        return ""
    others = "; ".join(f"{count} {reason}" for reason, count in found["skipped"].items())
    return f"products in {found['rule'].lower()}: {found['applied']} nodes" + (
        f"; in {FP32}: {others}" if others else ""
    )


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {"rule": outcome.rule, "family": outcome.family, "applied": outcome.applied}
    skipped = {
        "".join(c if c.isprintable() else " " for c in why)[:512]: n
        for why, n in outcome.skipped.most_common(MAX_REASONS)
    }
    return row | {"skipped": skipped, "off": outcome.off}


def of_rules(component: str, row: Mapping[str, Any]) -> list[str]:
    """The matches that a rule left alone, from what `rewritten` returned. A rule that was switched off is no fallback,
    nor is a method that the target does not want, nor products in float32."""
    found = []
    for rule in row["rules"]:
        if rule["family"] in (*METHODS, MATH):
            continue
        found += [
            f"{component}: {rule['rule']} left {count} alone: {reason}" for reason, count in rule["skipped"].items()
        ]
    return found


def settle(found: Iterable[str], strict: bool) -> None:
    """Log every fallback, or refuse them all.

    Raises:
        StrictError: `strict`, and there is one.
    """
    found = list(dict.fromkeys(found))
    for line in found:
        log.info("%s", line)
    if strict and found:
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        what = f"{len(found)} fallback{'s' * (len(found) > 1)} (expected none): {'; '.join(found[:LISTED])}{more}."
        raise StrictError(what, where="--strict", fix="mend the cause, or leave --strict out and they are only logged")

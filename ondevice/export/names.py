"""Names of values in formats that take letters, digits and _ only."""

from __future__ import annotations

import hashlib
import re

KEPT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# words of MIL's text form, which coremltools keeps clear of, too
RESERVED = re.compile(
    "any|bool|program|func|tensor|list|dict|tuple|true|false|string|state|bf16|fp(16|32|64)|u?int[0-9]+"
)


def plain(name: str) -> str:
    """The name itself where it is plain already; else its plain part and eight digits that tell it from others: two
    names never become one, and a name always becomes the same."""
    if KEPT.fullmatch(name) and not RESERVED.fullmatch(name):
        return name
    digits = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"v_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}_{digits}"

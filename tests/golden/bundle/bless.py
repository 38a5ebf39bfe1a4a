"""Write the golden bundle again: `python tests/golden/bundle/bless.py`.
Look at the difference before it is committed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bundle.test_golden import GOLDEN, bless

if __name__ == "__main__":
    bless()
    print(f"wrote {GOLDEN}")

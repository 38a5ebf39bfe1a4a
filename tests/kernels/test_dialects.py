"""Every kernel file speaks both dialects, and both preludes define the same words."""

import re
import subprocess
from pathlib import Path

import pytest
from metal.build import check

from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.prelude import prelude
from ondevice.lower.program import USES

KERNELS = load_all()
FORBIDDEN = (
    r"\bget_(global|local|group)_\w+|__(global|local|kernel)\b|\bthread_position|\(float\d+\)\s*\("
    r"|\bv(load|store)\w*|\bnative_"
)


def words(dialect: str) -> set[str]:
    """Names a kernel may use: macros and types, less those that start with OD_ (a prelude's own)."""
    text = prelude(dialect)
    found = set(re.findall(r"^#define (\w+)", text, re.M)) | set(re.findall(r"^typedef .* (\w+);", text, re.M))
    return {word for word in found if not word.upper().startswith("OD_")}


def test_preludes_define_the_same_words() -> None:
    assert words("opencl") == words("metal")


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_bodies_use_only_the_dialect(kernel: KernelFile) -> None:
    assert not re.search(FORBIDDEN, kernel.text), "write it with the prelude's words"
    assert len(kernel.text.splitlines()) <= 200


EXTRA = {"D": 40, "KEYS": 77, "SPAN": 48}  # what lowering defines beside the tunables
EPILOGUES = [
    {},
    {"ACT_Geglu": 1, "HAS_BIAS": 1},
    {"ACT_Silu": 1, "HAS_BIAS": 1, "HAS_SHIFT": 1, "HAS_ADD": 1, "INPLACE": 1},
]
RELUS = {"ACT_Relu": 1, "HAS_ADD": 1, "ACT_ThenRelu": 1}
EPILOGUES += [  # for kernels that read such weights
    {define: 1, "PANELS": 1, "HAS_BIAS": 1} | RELUS for define in ("W8", "W4")
]
BUILDS = [
    pytest.param(kernel, f16, epilogue, id=f"{name}-{f16}-{epilogue}")
    for name, kernel in KERNELS.items()
    for f16, epilogue in ((0, 0), (1, 1), (0, 2), (1, 3), (1, 4))
    if "PANELS" not in EPILOGUES[epilogue] or "wgt" in kernel.text
]


@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize("kernel, f16, epilogue", BUILDS)
def test_parses_as_metal(kernel: KernelFile, f16: int, epilogue: int, lanes: int) -> None:
    if lanes not in kernel.header["tune"].get("V", (4, 16)):
        pytest.skip("its vectors are no tunable")
    defines = kernel.tuning(**({"V": lanes} if "V" in kernel.header["tune"] else {}))
    defines |= {USES[cap]: 1 for cap in kernel.uses if cap in USES and (f16 or cap != "half")}
    defines |= {f"IMAGE_{name}": f16 for name in kernel.textures} | {f"FOLD_{name}": 2 for name in kernel.textures}
    defines |= {"F16": f16, "SRC_F16": f16, "DST_F16": 1 - f16}
    defines |= {f"MATH_{math}": 1 for math in kernel.maths[:1] * (not f16) or kernel.maths[-1:]}
    check(kernel.source("metal", **EXTRA | defines, **EPILOGUES[epilogue]), kernel.name)


def test_metals_own_erf_is_accurate(tmp_path: Path) -> None:
    """Metal has no erf, so its prelude spells one; compiled here as C++ and compared
    with the C library's over all magnitudes."""
    text = prelude("metal")
    body = re.search(r"static inline float od_erf\(float x\) \{.*?\n\}\n", text, re.DOTALL)
    assert body
    main = """
#include <cmath>
#include <cstdio>
using std::fmin; using std::fabs; using std::fma; using std::copysign;
namespace precise {
static float exp(float x) { return std::exp(x); }
static float exp2(float x) { return std::exp2(x); }
}
%s
int main() {
  double worst = 0;
  for (int i = 1; i < 200000; i++)
    for (int sign = -1; sign < 2; sign += 2) {
      const float x = sign * (i < 100000 ? i * 6e-5f : std::exp2(-(i - 100000) / 1000.0f));
      worst = fmax(worst, fabs(od_erf(x) - std::erf((double)x)) / fabs(std::erf((double)x)));
    }
  printf("%%g %%g %%g", worst, od_erf(INFINITY), od_erf(-INFINITY));
}
"""
    (tmp_path / "erf.cpp").write_text(main % body[0])
    subprocess.run(["g++", "-O2", "-ffp-contract=off", "-o", tmp_path / "erf", tmp_path / "erf.cpp"], check=True)
    worst, high, low = map(
        float, subprocess.run([tmp_path / "erf"], capture_output=True, text=True, check=True).stdout.split()
    )
    assert worst < 4 * 2.0**-24
    assert (high, low) == (1.0, -1.0)

"""The environment in which the C++ player finds the OpenCL devices that Python has.

Python finds the extra `cpu` by ondevice/run/icd.py. For another process of the same devices:

    ONDEVICE_OPENCL   the OpenCL loader that pyopencl uses (its wheel has one of its own; else the system's)
    OCL_ICD_VENDORS   the folder that icd.py made, with every driver's file: the embedded runtime's and the system's
    PYOPENCL_HOME     what that loader asks for in a wheel: the package's folder
    LD_LIBRARY_PATH   where the embedded runtime's math libraries are, which Python loads by hand

In a shell: `eval "$(python tests/player/opencl_environment.py)"`, then od_player.
"""

import os
import shlex
from pathlib import Path

from ondevice.run import icd
from ondevice.run.discovery import opencl

VARIABLES = ("ONDEVICE_OPENCL", icd.VARIABLE, "PYOPENCL_HOME", "LD_LIBRARY_PATH")


def environment(**more):
    """This process's environment, with what the player needs and `more`."""
    opencl()
    loaded = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    (loader,) = (path for path in loaded if Path(path).name.startswith("libOpenCL"))
    folders = [str(path.parent) for path in icd.embedded_libraries().values()]
    search = os.pathsep.join(dict.fromkeys([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]))
    found = {"ONDEVICE_OPENCL": loader, **({"LD_LIBRARY_PATH": search} if search else {})}
    return {**os.environ, **found, **more}


if __name__ == "__main__":
    print(
        "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment().items() if name in VARIABLES)
    )

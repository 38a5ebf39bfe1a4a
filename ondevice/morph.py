"""Draw a film on the way from one picture to another, in a model's latents.

python -m ondevice.morph sd15.ondevice day.jpg night.jpg --prompt "a mountain lake" --frames 16 --steps 50 --out lake
python -m ondevice.morph sd15.ondevice cat.png dog.png --prompt "a cat" --prompt-b "a dog" --out morph.webp
"""

from __future__ import annotations

from ondevice import cli
from ondevice.drawing.morphing import add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
HELP = "draw a film on the way from one picture to another"


if __name__ == "__main__":
    raise SystemExit(cli.main_for("morph"))

"""Parts of UNets' configs, drawn by hypothesis."""

from hypothesis import strategies as st

MIDDLES = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None]
UP = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}


def some(count, entries):
    return st.lists(entries, min_size=count, max_size=count)


def layers_and_depths(draw, levels):
    """Blocks of each level, and how deep their transformers are: one number, one per level, one per block."""
    layers = draw(some(levels, st.integers(1, 3)))
    if draw(st.booleans()):
        return {"layers_per_block": layers, "transformer_layers_per_block": draw(some(levels, st.integers(0, 2)))}
    down = [draw(st.integers(0, 2) | some(count, st.integers(0, 2))) for count in layers]
    up = [draw(st.integers(0, 2) | some(count + 1, st.integers(0, 2))) for count in reversed(layers)]
    return {
        "layers_per_block": layers,
        "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up,
    }

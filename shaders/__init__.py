"""Kernel sources. Data only; `ondevice.paths.SHADERS` is where to find them."""

"""Kernel sources. Data only; `ondevice.base.paths.SHADERS` is where to find them."""

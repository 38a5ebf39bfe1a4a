"""ondevice: Stable Diffusion checkpoints into dispatch plans that phone GPUs replay."""

__version__ = "0.1.0"

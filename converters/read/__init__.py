"""Readers: every file and folder that a checkpoint comes in, read without trust and without running anything in it."""

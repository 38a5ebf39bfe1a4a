"""Texts that people write: weights, chunks, parts. The specification is docs/prompts.md."""

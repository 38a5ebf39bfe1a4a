"""Data that ships with the package: the demo model, CLIP's tokenizer files, the configs of known families."""

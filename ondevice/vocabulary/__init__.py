"""What CLIP's and T5's tokenizers are made of, read from files that nobody vouches for:
vocabulary, merges, pieces, replacements, added tokens, settings."""

"""What a CLIP tokenizer is made of, read from files that nobody vouches for:
vocabulary, merges, added tokens, settings."""

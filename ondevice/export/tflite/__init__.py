"""TensorFlow Lite files (LiteRT)."""

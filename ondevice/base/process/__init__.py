"""The process that a verb runs in: what signals do to it, and where its words go."""

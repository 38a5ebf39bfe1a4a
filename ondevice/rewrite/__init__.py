"""Graph -> graph: fusion rules. Empty for now: the plain graph is the paper's baseline."""

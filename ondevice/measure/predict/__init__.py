"""How long plans take on a device that is not here: a model of their time, out of FLOPs, bytes and launches."""

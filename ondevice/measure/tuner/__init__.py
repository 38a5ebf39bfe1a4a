"""The tuner: measures each kernel's closed sets of tunables at the shapes
that a model's plans dispatch (docs/tuning.md)."""

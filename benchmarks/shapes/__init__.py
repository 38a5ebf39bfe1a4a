"""The demo models' world: pictures and films of plain shapes, made from a seed, and judges of what a model draws.

`data.py` writes what the recipes of `ondevice train` read; docs/demo_models.md says with which settings each model is
trained, and how well it draws.
"""

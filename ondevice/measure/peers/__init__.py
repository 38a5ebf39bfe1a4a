"""Other runtimes on the same weights, inputs and cores, timed in turns with ours:
what `ondevice bench MODEL --peers` runs.

One small module per runtime, with two functions: `convert` writes what the runtime reads, in a process of its own, and
`load` gives a function that runs once. None of them is imported by the process that drives them, so none can disturb
another's threads or memory.
"""

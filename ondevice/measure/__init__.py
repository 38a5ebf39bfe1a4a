"""What is measured: the ablation, latencies, tunables, other runtimes."""

from collections.abc import Callable

Say = Callable[[str], None]  # gets a line for the person who waits

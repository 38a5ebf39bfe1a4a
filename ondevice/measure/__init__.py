"""What is measured: the ablation, latencies, tunables, other runtimes."""

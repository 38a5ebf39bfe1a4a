"""The fuzz harness: every reader of files that nobody vouches for,
fed with inputs that know its format and guided by coverage.

`python -m benchmarks.fuzz --seconds 60` runs it (`make fuzz`); docs/fuzzing.md says how it works and what it found.

coverage.py counts branches, engine.py keeps the inputs that reached new ones, mutate/ changes inputs by format,
readers/ holds a target a reader, oracle.py says what is a finding, worker.py runs in a process that may die,
supervise.py watches those processes.
"""

"""What has nothing to do with models: paths, whole-or-nothing files, machine facts,
streams and signals, text, columns."""

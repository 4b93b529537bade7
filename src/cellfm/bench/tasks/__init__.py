"""Tasks of the benchmark."""

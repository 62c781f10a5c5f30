"""Benchmarks: `python -m benchmarks [NAME …]` runs them and writes the results to `benchmarks/results/`."""

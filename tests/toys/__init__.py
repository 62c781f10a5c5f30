"""A toy model and a toy graph, which `tests/cluster/test_toys.py` adds to a copy of the project."""

"""Decoder processes: starting them, and the code that they run."""

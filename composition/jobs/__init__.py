"""Runs jobs: claims them, runs their graphs, and records the results."""

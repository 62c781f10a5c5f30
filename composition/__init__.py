"""Graphs, jobs and the front door."""

"""Graphs: requests that combine several models."""

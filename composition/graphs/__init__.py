"""Graphs: compositions of models."""

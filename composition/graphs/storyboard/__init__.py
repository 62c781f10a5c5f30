"""Storyboard: a script to a film."""

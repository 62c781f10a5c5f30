"""Marks of generated content: what every finished file says about how it was made, and reading it again."""

"""Scores of each checkpoint, measured on scenes outside its training set."""

"""Decoding media files to frames, and encoding frames to media files."""

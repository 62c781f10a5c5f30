"""Media files to frames, and frames to media files."""

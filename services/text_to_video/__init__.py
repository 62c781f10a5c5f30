"""ModelScope's text-to-video: a video of what a text says."""

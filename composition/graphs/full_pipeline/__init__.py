"""Full pipeline: a prompt to a picture to a video."""

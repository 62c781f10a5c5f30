"""V2V: continue a video."""

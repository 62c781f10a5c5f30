"""Stable Video Diffusion: image-to-video."""

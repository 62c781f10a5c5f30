"""Qwen-Image-Edit: a picture redrawn by a prompt and other pictures, guided by losses while it is sampled."""

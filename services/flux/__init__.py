"""FLUX.1 text to image, with LoRA and a face's identity."""

"""LoRA files: which ones may be loaded, their layouts, and their places in memory."""

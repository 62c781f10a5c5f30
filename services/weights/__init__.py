"""Weights of models: repositories and folders, downloads, licences, and checks of LoRA files."""

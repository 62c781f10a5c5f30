"""Where weights come from: repositories and folders, downloads, licences, and LoRA files that are safe to load."""

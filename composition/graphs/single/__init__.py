"""Jobs of a model alone."""

"""File formats that marks are written into: finding and replacing their metadata, without touching anything else."""

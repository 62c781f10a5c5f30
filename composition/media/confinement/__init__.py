"""Confinement of decoder processes: no file but their input, no network, no other process."""

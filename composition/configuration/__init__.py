"""Reading and checking a configuration, and what is served under it."""

"""Persistent state: jobs, files and API keys in a database, and the bytes of results and uploads."""

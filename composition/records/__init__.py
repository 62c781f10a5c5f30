"""What is remembered: jobs, files and keys in a database, and the bytes of results and uploads."""

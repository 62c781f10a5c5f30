"""What runs in the processes that decode."""

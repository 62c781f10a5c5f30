"""Running a server: Ray, deployments, signals, console output, and fetching weights."""

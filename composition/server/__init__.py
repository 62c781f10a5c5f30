"""Running a server: Ray, deployments, console."""

"""Reading and checking a configuration file, and finding the models and graphs that are deployed."""

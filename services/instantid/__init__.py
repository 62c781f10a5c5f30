"""InstantID's eyes: finds a face in a picture, and says whose it is."""

"""What each checkpoint is worth, by what it shows of scenes that it was not trained on."""

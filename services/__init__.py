"""Models. A folder is a model and one deployment; the files beside the folders are spoken by all of them."""

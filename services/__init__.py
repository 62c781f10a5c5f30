"""Models: a folder each. The files beside the folders are shared by all of them."""

"""Models, one folder each. The modules in this folder are shared by all models."""

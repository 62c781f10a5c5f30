"""Rolling edit: redraw a first frame along a sequence of edges."""

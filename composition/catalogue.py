"""The graphs that there are. The one list: whoever adds a graph adds its line here."""

from collections.abc import Mapping

from composition import full_pipeline, rolling_edit, storyboard, v2v
from composition.graph import Graph

GRAPHS: tuple[Graph, ...] = (v2v.GRAPH, full_pipeline.GRAPH, rolling_edit.GRAPH, storyboard.GRAPH)
"""Those of several models, or of many calls of one. `composition.single` has those of jobs of a model alone."""

BY_NAME: Mapping[str, Graph] = {graph.name: graph for graph in GRAPHS}

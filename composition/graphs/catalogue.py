"""The graphs that there are. The one list: whoever adds a graph adds its line here."""

from collections.abc import Mapping

from composition.graphs import full_pipeline, rolling_edit, storyboard, v2v
from composition.graphs.graph import Graph

GRAPHS: tuple[Graph, ...] = (
    v2v.GRAPH,
    full_pipeline.GRAPH,
    rolling_edit.GRAPH,
    storyboard.GRAPH,
)
"""Graphs of several models, or of many calls of one. `composition.graphs.single` has the jobs of one model alone."""

BY_NAME: Mapping[str, Graph] = {graph.name: graph for graph in GRAPHS}

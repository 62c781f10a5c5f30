"""The list of graphs. A new graph is added here."""

from collections.abc import Mapping

from composition.graphs import full_pipeline, rolling_edit, storyboard, v2v
from composition.graphs.graph import Graph

GRAPHS: tuple[Graph, ...] = (
    v2v.GRAPH,
    full_pipeline.GRAPH,
    rolling_edit.GRAPH,
    storyboard.GRAPH,
)
"""Graphs that combine several calls. Jobs of a single model are in `composition.graphs.single`."""

BY_NAME: Mapping[str, Graph] = {graph.name: graph for graph in GRAPHS}

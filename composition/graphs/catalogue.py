"""The graphs that there are. The one list: whoever adds a graph adds its line here."""

from collections.abc import Mapping

from composition.graphs.full_pipeline.graph import GRAPH as FULL_PIPELINE
from composition.graphs.graph import Graph
from composition.graphs.rolling_edit.graph import GRAPH as ROLLING_EDIT
from composition.graphs.storyboard.graph import GRAPH as STORYBOARD
from composition.graphs.v2v.graph import GRAPH as V2V

GRAPHS: tuple[Graph, ...] = (V2V, FULL_PIPELINE, ROLLING_EDIT, STORYBOARD)
"""Graphs of several models, or of many calls of one. `composition.graphs.single` has the jobs of one model alone."""

BY_NAME: Mapping[str, Graph] = {graph.name: graph for graph in GRAPHS}

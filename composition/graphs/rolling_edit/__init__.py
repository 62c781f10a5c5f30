"""Rolling edit: redraw a first frame along a sequence of edges."""

from composition.graphs.graph import Graph, Need
from composition.graphs.rolling_edit.request import RollingEditRequest
from services.qwen_edit.request import EditRequest

GRAPH = Graph(
    name="rolling-edit",
    command="edit",
    request=RollingEditRequest,
    path="composition.graphs.rolling_edit.graph:RollingEdit",
    needs=(Need("guided-edit", EditRequest, at=""),),
)

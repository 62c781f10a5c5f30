"""Rolling edit: redraw a first frame along a sequence of edge pictures."""

from composition.graphs.branching import Branching
from composition.graphs.graph import Graph, Need
from composition.graphs.rolling_edit.branch import EditBranchFields, inherit_edit
from composition.graphs.rolling_edit.request import RollingEditRequest
from services.qwen_edit.request import EditRequest

GRAPH = Graph(
    name="rolling-edit",
    command="edit",
    request=RollingEditRequest,
    path="composition.graphs.rolling_edit.graph:RollingEdit",
    needs=(Need("guided-edit", EditRequest, at=""),),
    stages={"edit": 1.0},
    keeps_frames=True,
    segments=(2, 8),
    branching=Branching(EditBranchFields, inherit_edit),
)

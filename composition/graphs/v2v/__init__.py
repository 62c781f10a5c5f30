"""V2V: continue a video from its last frame."""

from composition.graphs.graph import Graph, Need
from composition.graphs.v2v.request import V2VRequest
from services.internvl.request import DescribeRequest
from services.wan.request import WanRequest

GRAPH = Graph(
    name="v2v",
    request=V2VRequest,
    path="composition.graphs.v2v.graph:V2V",
    needs=(Need("describe", DescribeRequest), Need("image-to-video", WanRequest, at="")),
    stages={"describe": 0.1, "denoise": 0.75, "decode": 0.15},
)

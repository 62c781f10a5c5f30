"""There and back: an image to a video that is played forwards, then backwards."""

from composition.graphs.graph import Graph, Need
from composition.graphs.there_and_back.request import ThereAndBackRequest
from services.toy.request import ToyRequest

GRAPH = Graph(
    name="there-and-back",
    request=ThereAndBackRequest,
    path="composition.graphs.there_and_back.graph:ThereAndBack",
    needs=(Need("image-to-video", ToyRequest, at="animate"),),
)

"""Storyboard: a script, or a topic for one → a video of several scenes."""

from composition.graphs import full_pipeline, single
from composition.graphs.graph import Graph, Need
from composition.graphs.storyboard.request import StoryboardRequest
from services.flux.request import FluxRequest
from services.hunyuan_dit.request import RestyleRequest
from services.internvl.request import DescribeRequest
from services.realesrgan.request import UpscaleRequest
from services.svd.request import SvdRequest
from services.text_to_video.request import TextToVideoRequest
from services.wan.request import WanTextRequest

PATH = "composition.graphs.storyboard.graph:Storyboard"
STAGES = {"script": 0.03, "scenes": 0.97}

BY_TEXT_TO_VIDEO = Graph(
    name="storyboard",
    request=StoryboardRequest,
    path=PATH,
    needs=(Need("text-to-video", TextToVideoRequest, others=(WanTextRequest,)),),
    wants=(Need("describe", DescribeRequest),),
    parts=frozenset({single.NAME}),
    stages=STAGES,
    waits=True,
)

GRAPH = Graph(
    name="storyboard",
    request=StoryboardRequest,
    path=PATH,
    needs=(Need("text-to-image", FluxRequest, at=""), Need("image-to-video", SvdRequest, at="animate")),
    wants=(
        Need("describe", DescribeRequest),
        Need("face"),
        Need("restyle", RestyleRequest, at="restyle"),
        Need("upscale", UpscaleRequest, at="upscale"),
    ),
    parts=frozenset({full_pipeline.GRAPH.name}),
    stages=STAGES,
    waits=True,
    alternatives={"text-to-video": BY_TEXT_TO_VIDEO},
)

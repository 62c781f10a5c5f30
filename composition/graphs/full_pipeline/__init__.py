"""Full pipeline: paint a picture, restyle it, animate it, upscale the video."""

from composition.graphs.full_pipeline.request import HD, FullPipelineRequest
from composition.graphs.graph import Graph, Need
from composition.variants import VIDEO
from services.flux.request import FluxRequest
from services.hunyuan_dit.request import RestyleRequest
from services.realesrgan.request import UpscaleRequest
from services.svd.request import SvdRequest

GRAPH = Graph(
    name="full-pipeline",
    command="pipeline",
    request=FullPipelineRequest,
    path="composition.graphs.full_pipeline.graph:FullPipeline",
    needs=(Need("text-to-image", FluxRequest, at=""),),
    wants=(
        Need("face"),
        Need("restyle", RestyleRequest, at="restyle"),
        Need("image-to-video", SvdRequest, at="animate"),
        Need("upscale", UpscaleRequest, at="upscale"),
    ),
    stages={"face": 0.02, "paint": 0.3, "restyle": 0.13, "animate": 0.35, "decode": 0.05, "upscale": 0.2},
    outputs=(VIDEO, HD),
    keeps_frames=True,
    segments=(2, 8),
)

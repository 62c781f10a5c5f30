"""Full pipeline: a prompt, and perhaps a face, to a picture, to a video, to a larger video."""

from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.graph import Graph, Need
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
)

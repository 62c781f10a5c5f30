"""ModelScope's text-to-video model."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.model import Costs, Model, Offer
from services.text_to_video.cost import estimate_cost, list_jobs
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.settings import TextToVideoSettings
from services.weights.licences import deny_commerce

REPOSITORY = "ali-vilab/text-to-video-ms-1.7b"

MODEL = Model(
    kind="text-to-video",
    settings=TextToVideoSettings,
    service="services.text_to_video.service:TextToVideo",
    offers=(Offer("text-to-video", TextToVideoRequest),),
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    costs=Costs(estimate_cost, list_jobs),
    licences={REPOSITORY: deny_commerce(REPOSITORY)},
    command="film",
)

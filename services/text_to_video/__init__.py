"""ModelScope's text-to-video: a video of what a text says."""

from services.licences import deny_commerce
from services.model import Model, Offer
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.service import TextToVideo, TextToVideoSettings

REPOSITORY = "ali-vilab/text-to-video-ms-1.7b"

MODEL = Model(
    kind="text-to-video",
    settings=TextToVideoSettings,
    service=TextToVideo,
    offers=(Offer("text-to-video", "film", TextToVideoRequest),),
    limits=lambda settings: {
        "num_frames": settings.max_frames,
        "max_area": settings.max_area,
        "steps": settings.max_steps,
    },
    licences={REPOSITORY: deny_commerce(REPOSITORY)},
    command="film",
)

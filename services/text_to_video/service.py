"""The ModelScope text-to-video service: generates a video from a prompt."""

from services.cost_limit import limit_cost
from services.frames import Stream
from services.limits import check_limit, draw_seed
from services.plan import VideoPlan
from services.service import Service
from services.sizes import round_size
from services.text_to_video.cost import estimate_cost
from services.text_to_video.model import TextToVideoModel
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.settings import TextToVideoSettings


class TextToVideo(Service[TextToVideoSettings, TextToVideoModel]):
    """ModelScope's text-to-video through diffusers, and checkpoints of the same architecture (zeroscope).

    The weights of ali-vilab/text-to-video-ms-1.7b are CC-BY-NC-4.0: not for commercial use.

    Source: ModelScope Text-to-Video Technical Report, arXiv 2308.06571.
    """

    kind = "text-to-video"
    load = TextToVideoModel
    limit = staticmethod(limit_cost(estimate_cost))

    def generate_video(self, request: TextToVideoRequest, start: int = 0, key: str = "") -> Stream:
        """Generate a video from the prompt; see `services.roles.TextToVideo`.

        Decoding batches that end before `start` are skipped. Closing the stream stops the work before the next
        denoising step or decoded batch.
        """
        return self._sample("film", self._plan(request, start), self._model.generate, key)

    def _plan(self, request: TextToVideoRequest, start: int) -> VideoPlan[TextToVideoRequest]:
        check_limit("steps", request.steps, self._model.most_steps, "steps")
        width, height = round_size(request.size, self._settings.max_area, self._model.sides)
        return VideoPlan(request, width, height, draw_seed(request.seed), start)

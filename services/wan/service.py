"""The Wan service: generates a video from a picture."""

from fractions import Fraction

from services.errors import InvalidParameter
from services.frames import Frames, Stream
from services.limits import draw_seed
from services.service import Service
from services.sizes import choose_framing
from services.wan.model import WanModel
from services.wan.plan import WanPlan
from services.wan.request import WanRequest
from services.wan.settings import WanSettings


class Wan(Service[WanSettings, WanModel]):
    """Wan image-to-video (Wan2.1 I2V, Wan2.2 I2V-A14B, Wan2.2 TI2V-5B) through diffusers.

    Source: Wan: Open and Advanced Large-Scale Video Generative Models, arXiv 2503.20314.
    """

    kind = "wan"
    load = WanModel

    @property
    def rate(self) -> Fraction:
        return self._model.rate

    def animate(
        self, request: WanRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> Stream:
        """Generate a video that begins with `image`; see `services.roles.ImageToVideo`.

        `last_image` needs a checkpoint with a mask channel: Wan2.1 I2V and Wan2.2 I2V-A14B, not TI2V-5B. Frames before
        `start` are decoded but not sent. Closing the stream stops the work before the next denoising step or decoded
        latent frame.
        """
        plan = self._plan(request, image, last_image, start)
        return self._sample("generate", plan, self._model.animate, key, plan.framing.list_facts())

    def _plan(self, request: WanRequest, image: Frames, last_image: Frames | None, start: int) -> WanPlan:
        self._model.loras.check(request.loras)
        if last_image is not None:
            self._check_last_image(request)
        if request.guidance_scale_2 is not None:
            self._check_second_guidance(request.guidance_scale, request.guidance_scale_2)
        picture = image.width, image.height
        framing = choose_framing(request, picture, self._settings.max_area, self._model.sides)
        seed = draw_seed(request.seed)
        return WanPlan(request, framing.width, framing.height, seed, start, image, last_image, framing)

    def _check_last_image(self, request: WanRequest) -> None:
        if not self._model.takes_last_image:
            raise InvalidParameter("last_image: this checkpoint cannot end at a given picture", param="last_image")
        if request.num_frames == 1:
            raise InvalidParameter("last_image: needs num_frames of 5 or more, got 1", param="last_image")

    def _check_second_guidance(self, first: float, second: float) -> None:
        if not self._model.has_two_experts:
            raise InvalidParameter("guidance_scale_2: this checkpoint has one expert", param="guidance_scale_2")
        if first <= 1 < second:  # diffusers decides by the first scale alone whether guidance is on
            raise InvalidParameter(
                f"guidance_scale_2: has no effect while guidance_scale is 1 or less, got {second}",
                param="guidance_scale_2",
            )

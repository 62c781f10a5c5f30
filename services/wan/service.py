"""The Wan service: generates a video from a picture, or from a prompt alone."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

from services.cost import Job
from services.cost_limit import limit_cost
from services.errors import InvalidParameter
from services.frames import Frames, Stream
from services.limits import draw_seed
from services.plan import Plan, VideoPlan
from services.service import Service
from services.sizes import choose_framing, choose_size
from services.wan.cost import estimate_cost
from services.wan.model import WanModel
from services.wan.plan import WanPlan, WanTextPlan
from services.wan.request import WanRequest, WanTextRequest
from services.wan.settings import WanSettings

WIDESCREEN = (16, 9)
"""Aspect ratio of a video without a picture if the request has no `size`."""


class Wan(Service[WanSettings, WanModel]):
    """Wan through diffusers, from a picture (Wan2.1 I2V, Wan2.2 I2V-A14B), a prompt (Wan2.1 T2V, Wan2.2 T2V-A14B) or
    either (Wan2.2 TI2V-5B).

    Source: Wan: Open and Advanced Large-Scale Video Generative Models, arXiv 2503.20314.
    """

    kind = "wan"
    load = WanModel
    limit = staticmethod(limit_cost(estimate_cost))

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
        return self._sample("generate", plan, self._model.generate, key, plan.framing.list_facts())

    def generate_video(self, request: WanTextRequest, start: int = 0, key: str = "") -> Stream:
        """Generate a video from the prompt; see `services.roles.TextToVideo`.

        Needs a checkpoint that is not conditioned on a picture: Wan2.1 T2V, Wan2.2 T2V-A14B or TI2V-5B. Otherwise as
        `animate`.
        """
        plan = self._plan_text(request, start)
        return self._sample("generate", plan, self._model.generate, key)

    def _describe_job(self, plan: Plan[Any]) -> Job[Any]:
        return replace(super()._describe_job(plan), pictures=int(isinstance(plan, WanPlan)))

    def _plan(self, request: WanRequest, image: Frames, last_image: Frames | None, start: int) -> WanPlan:
        if not self._model.takes_image:
            raise InvalidParameter("image: this checkpoint generates videos from a prompt alone", param="image")
        self._model.loras.check(request.loras)
        if last_image is not None:
            self._check_last_image(request)
        self._check_second_guidance(request.guidance_scale, request.guidance_scale_2)
        picture = image.width, image.height
        framing = choose_framing(request, picture, self._settings.max_area, self._model.sides)
        seed = draw_seed(request.seed)
        return WanPlan(request, framing.width, framing.height, seed, start, image, last_image, framing)

    def _plan_text(self, request: WanTextRequest, start: int) -> WanTextPlan:
        if not self._model.takes_text_alone:
            raise InvalidParameter("image: required, because this checkpoint animates a picture", param="image")
        self._model.loras.check(request.loras)
        self._check_second_guidance(request.guidance_scale, request.guidance_scale_2)
        width, height = choose_size(request, WIDESCREEN, self._settings.max_area, self._model.sides)
        return VideoPlan(request, width, height, draw_seed(request.seed), start)

    def _check_last_image(self, request: WanRequest) -> None:
        if not self._model.takes_last_image:
            raise InvalidParameter("last_image: this checkpoint cannot end at a given picture", param="last_image")
        if request.num_frames == 1:
            raise InvalidParameter("last_image: needs num_frames of 5 or more, got 1", param="last_image")

    def _check_second_guidance(self, first: float, second: float | None) -> None:
        if second is None:
            return
        if not self._model.has_two_experts:
            raise InvalidParameter("guidance_scale_2: this checkpoint has one expert", param="guidance_scale_2")
        if first <= 1 < second:  # diffusers decides by the first scale alone whether guidance is on
            raise InvalidParameter(
                f"guidance_scale_2: has no effect while guidance_scale is 1 or less, got {second}",
                param="guidance_scale_2",
            )

"""The toy model as a service."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from services.errors import InvalidParameter
from services.frames import Frames, Item, Progress, Stream
from services.limits import draw_seed
from services.plan import VideoPlan
from services.service import Service
from services.toy.request import ToyRequest
from services.toy.settings import ToySettings
from services.worker import Outlet


class ToyModel:
    """Has nothing to load."""

    def __init__(self, settings: ToySettings, home: Path) -> None:
        del settings, home

    def repeat(self, plan: VideoPlan[ToyRequest], image: Frames, outlet: Outlet[Item]) -> None:
        """Put out the frames from `plan.start`, one at a time. Raises Cancelled."""
        request = plan.request
        for index in range(plan.start, request.num_frames):
            dark = request.fade * index / max(1, request.num_frames - 1)
            outlet.put(Progress("denoise", index + 1, request.num_frames))
            pixels = np.rint(image.pixels * (1 - dark)).astype(np.uint8)
            outlet.put(Frames(pixels, index, Fraction(request.fps)))


class Toy(Service[ToySettings, ToyModel]):
    """Image-to-video that repeats its input."""

    kind = "toy"
    load = ToyModel

    def animate(
        self, request: ToyRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> Stream:
        """Make a video that shows `image`, see `services.roles.ImageToVideo`."""
        if last_image is not None:
            raise InvalidParameter("last_image: this model cannot end at a given image", param="last_image")
        plan = VideoPlan(request, image.width, image.height, draw_seed(request.seed), start)

        def sample(plan: VideoPlan[ToyRequest], outlet: Outlet[Item]) -> None:
            self._model.repeat(plan, image, outlet)

        return self._sample("animate", plan, sample, key)

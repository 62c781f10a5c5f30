"""The HunyuanDiT service: repaints a picture in another style."""

from services.cost_limit import limit_cost
from services.frames import Frames, Stream
from services.hunyuan_dit.cost import estimate_cost
from services.hunyuan_dit.model import HunyuanDitModel
from services.hunyuan_dit.plan import HunyuanDitPlan
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.limits import check_limit, draw_seed
from services.service import Service
from services.sizes import choose_working_size


class HunyuanDit(Service[HunyuanDitSettings, HunyuanDitModel]):
    """HunyuanDiT through diffusers, starting from a noised picture instead of pure noise (SDEdit).

    The weights are under Tencent's Hunyuan community licence, which is not an open-source licence.

    Source: Hunyuan-DiT, arXiv 2405.08748; SDEdit, arXiv 2108.01073.
    """

    kind = "hunyuan-dit"
    load = HunyuanDitModel
    limit = staticmethod(limit_cost(estimate_cost))

    def restyle(self, request: RestyleRequest, image: Frames, key: str = "") -> Stream:
        """Repaint `image` in the style that the prompt describes; see `services.roles.Restyle`.

        With `strength` 0 nothing is sampled: no progress is reported, and the picture is returned unchanged. Closing
        the stream stops the work before the next denoising step.
        """
        return self._sample("restyle", self._plan(request, image), self._model.restyle, key)

    def _plan(self, request: RestyleRequest, image: Frames) -> HunyuanDitPlan:
        check_limit("max_area", request.max_area, self._settings.max_area, "pixels")
        width, height = choose_working_size(image.width, image.height, request.max_area)
        return HunyuanDitPlan(request, width, height, draw_seed(request.seed), image)

"""The Stable Video Diffusion service: generates a video from a picture."""

from services.cost_limit import limit_cost
from services.errors import InvalidParameter
from services.frames import Frames, Stream
from services.limits import draw_seed
from services.service import Service
from services.sizes import choose_framing
from services.svd.cost import estimate_cost
from services.svd.model import SvdModel
from services.svd.plan import SvdPlan
from services.svd.request import SvdRequest
from services.svd.settings import SvdSettings


class Svd(Service[SvdSettings, SvdModel]):
    """Stable Video Diffusion image-to-video (SVD, SVD-XT) through diffusers.

    Source: Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets, arXiv 2311.15127.
    """

    kind = "svd"
    load = SvdModel
    limit = staticmethod(limit_cost(estimate_cost))

    def animate(
        self, request: SvdRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> Stream:
        """Generate a video that begins with `image`; see `services.roles.ImageToVideo`.

        The model takes neither a prompt nor a `last_image`. Decoding windows that end before `start` are skipped.
        Closing the stream stops the work before the next denoising step or decoded window.
        """
        if last_image is not None:
            raise InvalidParameter("last_image: this model cannot end at a given picture", param="last_image")
        plan = self._plan(request, image, start)
        return self._sample("animate", plan, self._model.animate, key, plan.framing.list_facts())

    def _plan(self, request: SvdRequest, image: Frames, start: int) -> SvdPlan:
        picture = image.width, image.height
        framing = choose_framing(request, picture, self._settings.max_area, self._model.sides)
        seed = draw_seed(request.seed)
        return SvdPlan(request, framing.width, framing.height, seed, start, image, framing)

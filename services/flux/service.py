"""The Flux service: generates pictures from a prompt and, optionally, a face."""

from dataclasses import replace
from typing import Any

from services.cost import Job
from services.cost_limit import limit_cost
from services.errors import InvalidParameter
from services.flux.cost import estimate_cost
from services.flux.model import FluxModel
from services.flux.plan import FluxPlan
from services.flux.request import FluxRequest
from services.flux.settings import FluxSettings
from services.frames import Face, Stream
from services.limits import draw_seed
from services.plan import Plan
from services.service import Service
from services.sizes import round_size

UNKNOWN_SIZE = "face_pose: the size of the photo is unknown; find the face again"


class Flux(Service[FluxSettings, FluxModel]):
    """FLUX.1 through diffusers, with LoRAs for each request and InfiniteYou's identity conditioning for faces.

    Source: black-forest-labs/FLUX.1-dev; InfiniteYou: Flexible Photo Recrafting While Preserving Your Identity,
    arXiv 2503.16418.
    """

    kind = "flux"
    load = FluxModel
    limit = staticmethod(limit_cost(estimate_cost))

    def generate_image(
        self, request: FluxRequest, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> Stream:
        """Generate pictures from the prompt; see `services.roles.TextToImage`.

        The progress of stage `paint` counts the steps of all pictures; each picture follows its last step. Closing the
        stream stops the work before the next denoising step.

        Raises:
            InvalidParameter: in addition, if a LoRA cannot be used, if this deployment has no identity weights, or if
                the size of the photo of `pose` is unknown.
            ModelFailed: in addition, if a LoRA cannot be downloaded from the hub.
        """
        return self._sample("paint", self._plan(request, face, pose), self._model.generate, key)

    def _describe_job(self, plan: Plan[Any]) -> Job[Any]:
        face = isinstance(plan, FluxPlan) and plan.face is not None
        return replace(super()._describe_job(plan), face=face)

    def _plan(self, request: FluxRequest, face: Face | None, pose: Face | None) -> FluxPlan:
        self._model.loras.check(request.loras)
        if face is not None and self._settings.identity is None:
            raise InvalidParameter("face: this deployment has no identity weights (`identity`)", param="face")
        if pose is not None and pose.size is None:
            raise InvalidParameter(UNKNOWN_SIZE, param="face_pose")
        acting = face if request.identity_strength > 0 else None
        width, height = round_size(request.size, self._settings.max_area, self._model.sides)
        return FluxPlan(request, width, height, draw_seed(request.seed), acting, pose)

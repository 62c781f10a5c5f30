"""The Qwen-Image-Edit service: edits a picture and scores the result."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from services.cost import Job
from services.cost_limit import limit_cost
from services.errors import InvalidParameter, LimitExceeded
from services.frames import Frames, Stream
from services.limits import check_limit, draw_seed
from services.plan import Plan
from services.qwen_edit.cost import estimate_cost
from services.qwen_edit.model import QwenEditModel
from services.qwen_edit.plan import QwenEditPlan
from services.qwen_edit.request import MAX_PICTURES, EditRequest, Guidance
from services.qwen_edit.settings import QwenEditSettings
from services.service import Service
from services.sizes import choose_working_size, parse_size
from services.weights.web_file import WebFile

Net = Literal["vgg16", "lpips"]
NETS: tuple[Net, ...] = get_args(Net)
"""Names of the networks that score the result."""


class QwenEdit(Service[QwenEditSettings, QwenEditModel]):
    """Qwen-Image-Edit-2509 through diffusers, with loss guidance at test time.

    Source: Qwen-Image Technical Report, arXiv 2508.02324.
    """

    kind = "qwen-edit"
    load = QwenEditModel
    limit = staticmethod(limit_cost(estimate_cost))

    def edit(
        self,
        request: EditRequest,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
        references: Sequence[Frames] = (),
    ) -> Stream:
        """Edit `image`; see `services.roles.GuidedEdit`.

        The facts `vgg16` and `lpips` name the weights of the networks that score the result. Closing the stream stops
        the work before the next denoising step or the next update of the guidance.

        Raises:
            InvalidParameter: in addition, if a picture is too long and narrow, or a loss lacks its edges or network.
            LimitExceeded: in addition, if there are more than MAX_PICTURES pictures.
        """
        plan = replace(self._plan(request, image, edges, first or image), references=references)
        self._check_references(plan)
        nets = {name: self._describe_net(name) for name in NETS}
        return self._sample("edit", plan, self._model.edit, key, nets)

    def _describe_job(self, plan: Plan[Any]) -> Job[Any]:
        edited = isinstance(plan, QwenEditPlan)
        seen = 1 + len(plan.references) + (plan.edges is not None) if edited else 1
        return replace(super()._describe_job(plan), pictures=seen)

    def _describe_net(self, name: Net) -> str:
        """Return a scoring network's weights for the job record; random weights are marked as such."""
        if name not in self._model.measures:
            return "not there"
        source = self._settings.vgg16 if name == "vgg16" else self._settings.lpips
        if isinstance(source, WebFile):
            return source.source
        return "random weights" if source == "random" else Path(str(source)).name

    def _plan(self, request: EditRequest, image: Frames, edges: Frames | None, first: Frames) -> QwenEditPlan:
        check_limit("max_area", request.max_area, self._settings.max_area, "pixels")
        self._check_guidance(request.ttlg, edges)
        self._model.loras.check(request.loras)
        size = image.width, image.height
        if request.size is not None:
            size = parse_size(request.size)
            check_limit("size", size[0] * size[1], self._settings.max_area, "pixels")
        width, height = choose_working_size(*size, request.max_area)
        self._model.check_shape(image.width, image.height, "image")
        if edges is not None:  # edges are resized to the sampling size
            self._model.check_shape(width, height, "size" if request.size else "image")
        return QwenEditPlan(request, width, height, draw_seed(request.seed), image, edges, first, size)

    def _check_references(self, plan: QwenEditPlan) -> None:
        most = MAX_PICTURES - (1 if plan.edges is None else 2)
        if len(plan.references) > most:
            others = "the picture to edit" if plan.edges is None else "the picture to edit and the edges"
            message = f"references: at most {most} beside {others}, got {len(plan.references)}"
            raise LimitExceeded(message, param="references")
        for reference in plan.references:
            self._model.check_shape(reference.width, reference.height, "references")

    def _check_guidance(self, ttlg: Guidance, edges: Frames | None) -> None:
        check_limit("ttlg.inner_steps", ttlg.inner_steps, self._settings.max_inner_steps, "updates")
        if ttlg.edge_scale > 0 and edges is None:
            raise InvalidParameter("ttlg.edge_scale: must be 0 where no edges are given", param="ttlg.edge_scale")
        if ttlg.gram_scale > 0 and "vgg16" not in self._model.measures:
            message = "ttlg.gram_scale: must be 0, because this deployment has no VGG16 (`vgg16`)"
            raise InvalidParameter(message, param="ttlg.gram_scale")

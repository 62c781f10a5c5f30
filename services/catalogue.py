"""All models. To add a model, add a line to this list."""

from collections.abc import Mapping
from typing import Any

from services import (
    flux,
    hunyuan_dit,
    instantid,
    internvl,
    qwen_edit,
    realesrgan,
    svd,
    text_to_video,
    wan,
)
from services.model import Model

MODELS: tuple[Model[Any], ...] = (
    internvl.MODEL,
    wan.MODEL,
    qwen_edit.MODEL,
    flux.MODEL,
    instantid.MODEL,
    hunyuan_dit.MODEL,
    svd.MODEL,
    realesrgan.MODEL,
    text_to_video.MODEL,
)

KINDS: Mapping[str, Model[Any]] = {model.kind: model for model in MODELS}
"""Kind of model → model."""

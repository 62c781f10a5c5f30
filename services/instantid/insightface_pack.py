"""Face detection with insightface, from a model pack that the operator has unpacked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from services.errors import ConfigError, ModelFailed
from services.frames import Pixels
from services.instantid.faces import Found
from services.instantid.settings import InsightFaceSettings


class InsightFace:
    """The pack's detection model, run by ONNX Runtime.

    Raises:
        ConfigError: insightface is not installed, the pack has no detector, or the device is not available.
    """

    def __init__(self, settings: InsightFaceSettings, device: torch.device) -> None:
        self._settings = settings
        if not any(settings.pack.glob("*.onnx")):  # insightface would download the pack, or fail without a message
            raise ConfigError(
                f"detector.pack: there are no .onnx files in {settings.pack} (antelopev2 unpacks into a folder within)",
                param="detector.pack",
            )
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        options = {"device_id": device.index or 0} if device.type == "cuda" else {}
        try:
            from insightface.app import FaceAnalysis
            from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime
        except ImportError as error:
            raise ConfigError(f"detector: insightface is not installed ({error})", param="detector") from error
        # ONNX Runtime's errors have no common base class.
        refused = (onnxruntime.Fail, onnxruntime.InvalidGraph, onnxruntime.InvalidProtobuf, onnxruntime.NotImplemented)
        self._broken = (onnxruntime.Fail, onnxruntime.RuntimeException, onnxruntime.InvalidArgument)
        try:
            analysis: Any = FaceAnalysis(
                str(settings.pack), allowed_modules=["detection"], providers=[provider], provider_options=[options]
            )
        except (AssertionError, RuntimeError, ValueError, *refused) as error:
            raise ConfigError(f"detector.pack: {settings.pack} has no detector ({error})") from error
        self._model = analysis.det_model
        if provider not in self._model.session.get_providers():  # ONNX Runtime only warns
            raise ConfigError(f"device: ONNX Runtime has no {provider} here", param="device")
        if not self._model.use_kps:
            raise ConfigError(f"detector.pack: the detector in {settings.pack} returns no key points")
        self._model.prepare(device.index or 0, det_thresh=settings.threshold, input_size=(640, 640))

    def detect(self, pixels: Pixels, check: Callable[[], None]) -> list[Found]:
        """Return the faces found at the first of the configured sizes that yields any.

        Args:
            pixels: (height, width, 3) uint8 RGB.
            check: called before each size; an exception from it ends the search and propagates.

        Raises:
            ModelFailed: ONNX Runtime failed, e.g. out of memory.
        """
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        short, long = sorted(pixels.shape[:2])
        for side in self._settings.sizes:
            check()
            if side * short < long:  # the shorter side would shrink to zero
                continue
            try:
                boxes, keypoints = self._model.detect(bgr, input_size=(side, side))
            except self._broken as error:
                raise ModelFailed(f"the detector failed at {side}x{side} pixels") from error
            if len(boxes):
                return [
                    Found(box[:4].astype(np.float32), points.astype(np.float32), float(box[4]))
                    for box, points in zip(boxes, keypoints, strict=True)
                ]
        return []

"""Inference for faces: detect faces, crop and align one, compute its identity embedding."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from services.device import find_device, finite, report_device_errors
from services.errors import ConfigError
from services.frames import Face, Fact, Features, Frames, Item, Pixels
from services.instantid.arcface import ArcFace, from_weights
from services.instantid.faces import Found, choose_face, fractions
from services.instantid.geometry import aligned
from services.instantid.insightface_pack import InsightFace
from services.instantid.mtcnn import Mtcnn
from services.instantid.orientation import find_faces
from services.instantid.settings import InstantIdSettings, MtcnnSettings
from services.tensors import read_weights
from services.weights.files import resolve_file
from services.weights.local import resolve
from services.weights.web_file import WebFile
from services.worker import Outlet


class Detector(Protocol):
    """Finds faces."""

    def detect(self, pixels: Pixels, check: Callable[[], None]) -> list[Found]:
        """Return every face in a picture, (height, width, 3) uint8 RGB; call `check` between steps."""
        ...


class InstantIdModel:
    """A loaded detector and a loaded recogniser."""

    def __init__(self, settings: InstantIdSettings, home: Path) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._detector = _detector(settings, self._device)
        self._recogniser = _recogniser(settings, home).to(self._device)

    def find_face(self, image: Frames, outlet: Outlet[Item]) -> None:
        """Find the largest face of a picture, putting Facts and the Face into `outlet`.

        Raises:
            InvalidParameter: the picture has no face, or its largest face is too small or turned too far.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked between the steps of the search.
        """
        with report_device_errors(f"{image.width}x{image.height} pixels", "send a smaller picture"):
            self._find(image, outlet)

    def _find(self, image: Frames, outlet: Outlet[Item]) -> None:
        picture = image.pixels[0]
        found, quarters = find_faces(lambda pixels: self._detector.detect(pixels, outlet.check), picture)
        outlet.put(Fact("faces", len(found)))
        face, notice = choose_face(found, image, self._settings, quarters)
        if notice:
            outlet.put(Fact("notice", notice))
        outlet.check()
        crop = aligned(picture, face.keypoints)
        embedding = self._embed(crop)
        size = image.width, image.height
        box = fractions(face.box.reshape(2, 2), *size).clip(0, 1).reshape(4)
        outlet.put(Face(embedding, fractions(face.keypoints, *size), box, Frames(crop), size))

    @torch.no_grad()
    def _embed(self, crop: Pixels) -> Features:
        """Return the embedding of an aligned crop: (1, 112, 112, 3) uint8 RGB → (512,) float32 of length 1."""
        bgr = np.ascontiguousarray(crop[..., ::-1])
        face = torch.from_numpy(bgr).to(self._device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        return finite(self._recogniser(face))[0].cpu().numpy()


def _detector(settings: InstantIdSettings, device: torch.device) -> Detector:
    if isinstance(settings.detector, MtcnnSettings):
        return Mtcnn(settings.detector, device)
    return InsightFace(settings.detector, device)


def _recogniser(settings: InstantIdSettings, home: Path) -> ArcFace:
    weights = settings.recogniser
    if isinstance(weights, WebFile):
        file = resolve_file(weights, home, "recogniser")
    else:
        file = resolve(weights, home) / settings.recogniser_file
    try:
        return from_weights(read_weights(file, "recogniser")).float()
    except (ConfigError, KeyError, TypeError, RuntimeError) as error:
        source = settings.recogniser.source
        raise ConfigError(
            f"recogniser: {source} has no IR-SE50 in {file.name} ({error})", param="recogniser"
        ) from error

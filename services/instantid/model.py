"""How a face is found and told from others: a detector, an aligned crop, a recogniser."""

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
from services.instantid.settings import InstantIdSettings, MtcnnSettings
from services.tensors import read_weights
from services.weights.local import resolve
from services.worker import Outlet


class Detector(Protocol):
    """Finds faces."""

    def detect(self, pixels: Pixels, check: Callable[[], None]) -> list[Found]:
        """Return every face in a picture, (height, width, 3) uint8 RGB; call `check` between any two steps."""
        ...


class InstantIdModel:
    """A detector and a recogniser, loaded."""

    def __init__(self, settings: InstantIdSettings, home: Path) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._detector = _detector(settings, self._device)
        self._recogniser = _recogniser(settings, home).to(self._device)

    def find_face(self, image: Frames, outlet: Outlet[Item]) -> None:
        """Find the largest face of a picture, putting Facts and the Face into `outlet`.

        Raises:
            InvalidParameter: there is no face, or it is too small or turned too far.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: nobody wants it any more; seen between any two steps of the search.
        """
        with report_device_errors(f"{image.width}x{image.height} pixels", "send a smaller picture"):
            self._find(image, outlet)

    def _find(self, image: Frames, outlet: Outlet[Item]) -> None:
        picture = image.pixels[0]
        found = self._detector.detect(picture, outlet.check)
        outlet.put(Fact("faces", len(found)))
        face, notice = choose_face(found, image, self._settings)
        if notice:
            outlet.put(Fact("notice", notice))
        outlet.check()
        crop = aligned(picture, face.keypoints)
        embedding = self._embed(crop)
        box = fractions(face.box.reshape(2, 2), image.width, image.height).clip(0, 1).reshape(4)
        outlet.put(Face(embedding, fractions(face.keypoints, image.width, image.height), box, Frames(crop)))

    @torch.no_grad()
    def _embed(self, crop: Pixels) -> Features:
        """Turn (1, 112, 112, 3) uint8 RGB into (512,) of length 1."""
        bgr = np.ascontiguousarray(crop[..., ::-1])
        face = torch.from_numpy(bgr).to(self._device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        return finite(self._recogniser(face))[0].cpu().numpy()


def _detector(settings: InstantIdSettings, device: torch.device) -> Detector:
    if isinstance(settings.detector, MtcnnSettings):
        return Mtcnn(settings.detector, device)
    return InsightFace(settings.detector, device)


def _recogniser(settings: InstantIdSettings, home: Path) -> ArcFace:
    file = resolve(settings.recogniser, home) / settings.recogniser_file
    try:
        return from_weights(read_weights(file, "recogniser")).float()
    except (ConfigError, KeyError, TypeError, RuntimeError) as error:
        source = settings.recogniser.source
        raise ConfigError(
            f"recogniser: {source} has no IR-SE50 in {file.name} ({error})", param="recogniser"
        ) from error

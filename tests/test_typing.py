"""Calls between deployments are typed: pyright finds a wrong name, a forgotten argument and a wrong type."""

from pathlib import Path

from tests.typecheck import check_types

PROGRAM = """
from composition.graphs.calls import Models, stream
from services.frames import Frames
from services.roles import ImageToVideo
from services.svd.request import SvdRequest
from services.wan.request import WanRequest


def call(models: Models, request: WanRequest, other: SvdRequest, image: Frames) -> None:
    stream(models.image_to_video, ImageToVideo[WanRequest].animate, request, image, start=3, key="job")
    stream(models.image_to_video, ImageToVideo[WanRequest].animated, request, image)
    stream(models.image_to_video, ImageToVideo[WanRequest].animate, request)
    stream(models.image_to_video, ImageToVideo[WanRequest].animate, other, image)
"""


def test_mistakes_in_a_call_to_a_model_are_found(tmp_path: Path) -> None:
    lines = PROGRAM.splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "animate, request, image, start" in line)
    errors = check_types(PROGRAM, tmp_path)
    assert [line for line, _ in errors] == [first + 1, first + 2, first + 3], errors
    wrong_name, forgotten, wrong_type = (message for _, message in errors)
    assert 'Cannot access attribute "animated"' in wrong_name
    assert 'Argument missing for parameter "image"' in forgotten
    assert '"SvdRequest" cannot be assigned to parameter "request" of type "WanRequest"' in wrong_type

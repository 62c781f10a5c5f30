"""The face detection service: finds one face in a picture."""

from functools import partial

from services.frames import Frames, Stream
from services.instantid.model import InstantIdModel
from services.instantid.settings import InstantIdSettings
from services.service import Service


class InstantId(Service[InstantIdSettings, InstantIdModel]):
    """Finds the face in a picture: its box, key points, aligned crop and identity embedding.

    This is the first step of InstantID (arXiv 2401.07519) and InfiniteYou (arXiv 2503.16418).
    """

    kind = "instantid"
    load = InstantIdModel

    def find_face(self, image: Frames, key: str = "") -> Stream:
        """Find the largest face in a picture; see `services.roles.FaceDetection`.

        Closing the stream stops the work between two steps of the search.

        Raises:
            LimitExceeded: the picture has more pixels than this deployment allows.
        """
        self._settings.check_picture(image.width, image.height)
        return self._stream("face", partial(self._model.find_face, image), key)

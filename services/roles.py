"""What a model of each role can do: one interface with one method for each role.

A service offers a role when it has the method with this signature; its request class says what may be chosen. All
methods return a stream of items that ends with StageDone. Closing the stream stops the work before its next step, and a
second call with the same `key` stops the first. All raise:

- InvalidParameter: a field does not suit this checkpoint or deployment.
- LimitExceeded: a field is beyond this deployment's limit.
- ModelFailed: out of memory, or numbers that are not finite.
- DeviceFailed: the GPU is lost to this process.
- Cancelled: `stop`, or a second call with the same key.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from services.frames import Face, Frames, Stream
from services.model import Role
from services.worker import ServiceInfo

Request_contra = TypeVar("Request_contra", contravariant=True)


class Informative(Protocol):
    """What every service has beside the methods of its roles."""

    async def info(self) -> ServiceInfo:
        """Return what is loaded, and whether it is at work."""
        ...


class ImageToVideo(Protocol[Request_contra]):
    """Makes a video of a picture."""

    def animate(
        self, request: Request_contra, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> Stream:
        """Make a video that begins with `image`, and ends with `last_image` where the checkpoint can.

        The stream has the facts `seed` and `size`, progress of `denoise`, then frames and progress of `decode`.

        Args:
            request: what to make.
            image: one frame; what does not fit the video's aspect is cut off evenly at two sides.
            last_image: one frame, treated alike.
            start: index of the first frame to send; those before it are kept back.
            key: names the job.
        """
        ...


class TextToVideo(Protocol[Request_contra]):
    """Makes a video of a text."""

    def generate_video(self, request: Request_contra, start: int = 0, key: str = "") -> Stream:
        """Make a video of what the prompt says.

        The stream has the facts `seed` and `size`, progress of `denoise`, then frames and progress of `decode`.

        Args:
            request: what to make.
            start: index of the first frame to send; those before it are kept back.
            key: names the job.
        """
        ...


class TextToImage(Protocol[Request_contra]):
    """Makes pictures of a text."""

    def generate_image(self, request: Request_contra, face: Face | None = None, key: str = "") -> Stream:
        """Make pictures of what the prompt says.

        The stream has the facts `seed` and `size`, progress, and each picture as a run of one whose `first` is its
        index.

        Args:
            request: what to make.
            face: who is to be seen; its key points say where in the picture.
            key: names the job.
        """
        ...


class GuidedEdit(Protocol[Request_contra]):
    """Edits a picture, following edges."""

    def edit(
        self,
        request: Request_contra,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
    ) -> Stream:
        """Edit a picture.

        The stream has facts, progress of `denoise`, Sketches where they are asked for, Scores, and the picture.

        Args:
            request: what to do.
            image: one frame, the picture to edit.
            edges: one frame, its edges white on black or, with `edge_filter`, any picture; resized to the result's.
            first: one frame, the first of the clip, whose style is kept; by default `image`.
            key: names the job.
        """
        ...


class Restyle(Protocol[Request_contra]):
    """Gives a picture another style."""

    def restyle(self, request: Request_contra, image: Frames, key: str = "") -> Stream:
        """Paint `image` again in the style that the prompt says, in its own size.

        The stream has the facts `seed` and `size`, progress of `denoise`, and the picture.

        Args:
            request: what to do.
            image: one frame.
            key: names the job.
        """
        ...


class Upscale(Protocol[Request_contra]):
    """Enlarges frames."""

    def upscale(self, request: Request_contra, frames: Frames, key: str = "") -> Stream:
        """Enlarge a run of frames.

        The stream has the run, with its place and rate.

        Args:
            request: how many times.
            frames: the run.
            key: names the job and the run.
        """
        ...


class Describe(Protocol[Request_contra]):
    """Answers questions about frames."""

    def describe(self, request: Request_contra, frames: Frames | None = None, key: str = "") -> Stream:
        """Answer the prompt.

        The stream has one Progress when the answer begins, and a Text for each piece.

        Args:
            request: the question.
            frames: what it is about; None asks about the text alone.
            key: names the job.
        """
        ...


class FaceDetection(Protocol):
    """Finds faces."""

    def find_face(self, image: Frames, key: str = "") -> Stream:
        """Find the largest face in a picture.

        The stream has the fact `faces` (how many were found), the fact `notice` where there is something to know about
        the one that is taken, and the Face.

        Args:
            image: one frame.
            key: names the job.

        Raises:
            InvalidParameter: there is no face, or it is too small or turned too far.
        """
        ...


INTERFACES: Mapping[Role, type[Any]] = {
    "describe": Describe,
    "face": FaceDetection,
    "guided-edit": GuidedEdit,
    "image-to-video": ImageToVideo,
    "restyle": Restyle,
    "text-to-image": TextToImage,
    "text-to-video": TextToVideo,
    "upscale": Upscale,
}


def find_method(role: Role) -> str:
    """Return the name of a role's method."""
    (name,) = (name for name in vars(INTERFACES[role]) if not name.startswith("_"))
    return name

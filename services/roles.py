"""The interfaces of roles: one class with one method for each role.

A service offers a role if it has the method with this signature; its request class defines the options. All methods
return a stream of items that ends with StageDone. Closing the stream stops the work before its next step, and a second
call with the same `key` stops the first. All methods raise:

- InvalidParameter: this checkpoint or deployment does not support the value of a field.
- LimitExceeded: a field is above this deployment's limit.
- ModelFailed: out of memory, or values that are not finite.
- DeviceFailed: the GPU is unusable for this process.
- Cancelled: by `stop`, or by a second call with the same key.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from services.frames import Face, Frames, Stream
from services.model import Role
from services.worker import ServiceInfo

Request_contra = TypeVar("Request_contra", contravariant=True)


class Informative(Protocol):
    """The method that every service has in addition to those of its roles."""

    async def info(self) -> ServiceInfo:
        """Return the loaded model and whether it is busy."""
        ...


class ImageToVideo(Protocol[Request_contra]):
    """Animates a picture."""

    def animate(
        self, request: Request_contra, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> Stream:
        """Generate a video that begins with `image`, and ends with `last_image` if the checkpoint supports that.

        The stream has the facts `seed` and `size`, the progress of `denoise`, then frames and the progress of `decode`.
        Frames have the size of the fact `size`. A model that samples more and cuts it off reports that as `canvas`.

        Args:
            request: the prompt and the sampling options.
            image: one frame. With `fit: pad` the whole of it is in the middle of the frames, where
                `services.framing.place_picture` places it; with `crop` and `stretch` it fills them.
            last_image: one frame, fitted in the same way.
            start: index of the first frame to send; earlier frames are generated but not sent.
            key: key of the stream, for `stop`.
        """
        ...


class TextToVideo(Protocol[Request_contra]):
    """Generates a video from a prompt."""

    def generate_video(self, request: Request_contra, start: int = 0, key: str = "") -> Stream:
        """Generate a video from a prompt.

        The stream has the facts `seed` and `size`, the progress of `denoise`, then frames and the progress of `decode`.

        Args:
            request: the prompt and the sampling options.
            start: index of the first frame to send; earlier frames are generated but not sent.
            key: key of the stream, for `stop`.
        """
        ...


class TextToImage(Protocol[Request_contra]):
    """Generates pictures from a prompt."""

    def generate_image(
        self, request: Request_contra, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> Stream:
        """Generate pictures from a prompt.

        The stream has the facts `seed` and `size`, progress, and each picture as a run of one frame, whose `first` is
        the index of the picture.

        Args:
            request: the prompt and the sampling options.
            face: the person to show.
            key: key of the stream, for `stop`.
            pose: the face whose key points set the pose of the person's face and its position in the picture, with
                the proportions that its photo has; by default the model chooses them.
        """
        ...


class GuidedEdit(Protocol[Request_contra]):
    """Edits a picture, guided by edges."""

    def edit(
        self,
        request: Request_contra,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
        references: Sequence[Frames] = (),
    ) -> Stream:
        """Edit a picture.

        The stream has facts, the progress of `denoise`, Sketches if requested, Scores, and the picture.

        Args:
            request: the prompt and the sampling options.
            image: one frame, the picture to edit.
            edges: one frame, edges in white on black or, with `edge_filter`, any picture; resized to the result's size.
            first: one frame, the first of the clip, whose style is kept; by default `image`.
            key: key of the stream, for `stop`.
            references: pictures that the prompt may refer to, each one frame of any size. The model sees the edges, the
                image and the references in this order.
        """
        ...


class Restyle(Protocol[Request_contra]):
    """Changes the style of a picture."""

    def restyle(self, request: Request_contra, image: Frames, key: str = "") -> Stream:
        """Restyle `image` by the prompt, at the same size.

        The stream has the facts `seed` and `size`, the progress of `denoise`, and the picture.

        Args:
            request: the prompt and the sampling options.
            image: one frame.
            key: key of the stream, for `stop`.
        """
        ...


class Upscale(Protocol[Request_contra]):
    """Upscales frames."""

    def upscale(self, request: Request_contra, frames: Frames, key: str = "") -> Stream:
        """Upscale a run of frames.

        The stream has the upscaled run, with the same `first`, `rate` and `times`.

        Args:
            request: the scale factor.
            frames: the run.
            key: key of the stream, for `stop`; unique for each run.
        """
        ...


class Describe(Protocol[Request_contra]):
    """Answers questions about frames."""

    def describe(self, request: Request_contra, frames: Frames | None = None, key: str = "") -> Stream:
        """Answer the prompt.

        The stream has one Progress when the answer begins, and a Text for each piece of the answer.

        Args:
            request: the question.
            frames: the frames that the question is about; None for a question without pictures.
            key: key of the stream, for `stop`.
        """
        ...


class FaceDetection(Protocol):
    """Detects faces."""

    def find_face(self, image: Frames, key: str = "") -> Stream:
        """Detect the largest face in a picture.

        The stream has the fact `faces` (the number of detected faces), the fact `notice` if there is a warning about
        the selected face, and the Face.

        Args:
            image: one frame.
            key: key of the stream, for `stop`.

        Raises:
            InvalidParameter: there is no face, or it is too small or turned too far to the side.
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
    """Return the name of the method of a role."""
    (name,) = (name for name in vars(INTERFACES[role]) if not name.startswith("_"))
    return name

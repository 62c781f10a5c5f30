"""The InternVL service: answers a question about frames and streams the answer."""

from services.frames import Frames, Item, Progress, Stream, Text
from services.internvl.model import Describer
from services.internvl.request import DescribeRequest
from services.internvl.settings import InternVLSettings
from services.limits import check_limit
from services.service import Service
from services.worker import Outlet

STAGE = "describe"


class InternVL(Service[InternVLSettings, Describer]):
    """Answers questions about frames, one request at a time.

    Decoding is greedy: the same request about the same frames on the same device gets the same answer. The stream also
    ends normally if the answer is empty or is truncated at `max_new_tokens`.
    """

    kind = "internvl"
    load = Describer.load

    def describe(self, request: DescribeRequest, frames: Frames | None = None, key: str = "") -> Stream:
        """Answer the prompt; see `services.roles.Describe`. Closing the stream stops the work within one token.

        Raises:
            LimitExceeded: in addition, if prompt and frames leave fewer than `max_new_tokens` tokens of the context.
        """
        if frames is not None:
            check_limit("frames", frames.count, self._settings.max_frames, "frames")

        def work(outlet: Outlet[Item]) -> None:
            outlet.put(Progress(STAGE, 0, request.max_new_tokens))
            self._model.describe(
                request.prompt,
                None if frames is None else frames.pixels,
                request.max_new_tokens,
                write=lambda piece: outlet.put(Text(STAGE, piece)),
                check=outlet.check,
            )

        return self._stream(STAGE, work, key, request)

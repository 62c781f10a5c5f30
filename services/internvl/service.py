"""How InternVL is served: a question about frames in, the answer out as it is written."""

from services.frames import Frames, Item, Progress, Stream, Text
from services.internvl.model import Describer
from services.internvl.request import DescribeRequest
from services.internvl.settings import InternVLSettings
from services.limits import check_limit
from services.service import Service
from services.worker import Outlet

STAGE = "describe"


class InternVL(Service[InternVLSettings, Describer]):
    """Answers questions about frames, one at a time.

    Decoding is greedy: the same request about the same frames on the same device has the same answer. A model may
    answer nothing at all, or be cut off at `max_new_tokens`; both end the stream as usual.
    """

    kind = "internvl"
    load = Describer.load

    def describe(self, request: DescribeRequest, frames: Frames | None = None, key: str = "") -> Stream:
        """Answer the prompt, see `services.roles.Describe`. Closing the stream stops the work within one token.

        Raises:
            LimitExceeded: also where prompt and frames leave fewer than `max_new_tokens` of the model's context.
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

"""How Real-ESRGAN is served: a run of frames in, the same run out, larger."""

from services.errors import InvalidParameter
from services.frames import Frames, Item, Stream
from services.limits import check_limit
from services.realesrgan.model import RealEsrganModel
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import RealEsrganSettings
from services.service import Service
from services.worker import Outlet


class RealEsrgan(Service[RealEsrganSettings, RealEsrganModel]):
    """Real-ESRGAN through spandrel, which tells the architecture from the weights.

    Source: Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, arXiv 2107.10833.
    """

    kind = "realesrgan"
    load = RealEsrganModel

    def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> Stream:
        """Enlarge a run of frames, see `services.roles.Upscale`.

        A scale below the net's own shrinks what the net makes. Closing the stream stops the work before the next tile.

        Raises:
            InvalidParameter: the net cannot make that scale.
            LimitExceeded: the result has more pixels than this deployment allows.
        """
        most, area = self._model.scale, frames.width * frames.height * request.scale**2
        if request.scale > most:
            raise InvalidParameter(f"scale: this net makes at most {most}, got {request.scale}", param="scale")
        check_limit("scale", area, self._settings.max_area, "pixels of the result")

        def work(outlet: Outlet[Item]) -> None:
            pixels = self._model.upscale(frames.pixels, request.scale, outlet.check)
            outlet.put(Frames(pixels, frames.first, frames.rate))

        return self._stream("upscale", work, key)

"""The Real-ESRGAN service: enlarges frames."""

from services.errors import InvalidParameter
from services.frames import Frames, Item, Stream
from services.limits import check_limit
from services.realesrgan.model import RealEsrganModel
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import RealEsrganSettings
from services.service import Service
from services.worker import Outlet


class RealEsrgan(Service[RealEsrganSettings, RealEsrganModel]):
    """Real-ESRGAN through spandrel, which detects the architecture from the weights.

    Source: Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, arXiv 2107.10833.
    """

    kind = "realesrgan"
    load = RealEsrganModel

    def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> Stream:
        """Enlarge consecutive frames; see `services.roles.Upscale`.

        If the scale is below the network's own, the network's output is scaled down. Closing the stream stops the work
        before the next tile.

        Raises:
            InvalidParameter: the scale exceeds the network's own.
            LimitExceeded: the result has more pixels than this deployment allows.
        """
        most, area = self._model.scale, frames.width * frames.height * request.scale**2
        if request.scale > most:
            raise InvalidParameter(f"scale: this net makes at most {most}, got {request.scale}", param="scale")
        check_limit("scale", area, self._settings.max_area, "pixels of the result")

        def work(outlet: Outlet[Item]) -> None:
            pixels = self._model.upscale(frames.pixels, request.scale, outlet.check)
            outlet.put(Frames(pixels, frames.first, frames.rate, frames.times))

        return self._stream("upscale", work, key)

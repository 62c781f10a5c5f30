"""Pictures by Flux's service, for the tests of its recipes."""

import asyncio
from contextlib import aclosing

from miniatures.judge import Picture
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.frames import Face, Frames


def painted(flux: Flux, request: FluxRequest, face: Face | None = None) -> Picture:
    """Return the picture that the service generates: (height, width, 3)."""

    async def asked() -> Picture:
        async with aclosing(flux.generate_image(request, face, pose=face)) as items:
            (picture,) = [item.pixels[0] async for item in items if isinstance(item, Frames)]
        return picture

    return asyncio.run(asked())

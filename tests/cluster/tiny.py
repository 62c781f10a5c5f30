"""A small Serve application with and one without an HTTP route, for tests of deployment."""

import os
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(name="front", ray_actor_options={"num_cpus": 0.01})
class Front:
    """Responds with its name."""

    async def __call__(self, request: Request) -> JSONResponse:
        umask = os.umask(0o077)
        os.umask(umask)
        return JSONResponse({"pid": os.getpid(), "umask": umask})


@serve.deployment(name="back", ray_actor_options={"num_cpus": 0.01})
class Back:
    """Has no HTTP route."""

    async def __call__(self) -> None:
        pass


def front(args: dict[str, Any]) -> Application:
    return Front.bind()


def back(args: dict[str, Any]) -> Application:
    return Back.bind()

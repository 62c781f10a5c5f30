"""Responses for errors, in OpenAI's format: a status and `{"error": {"message", "type", "param", "code"}}`."""

import logging

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from composition.http.schemas import ErrorBody, ErrorDetail
from composition.http.sse import format_event
from services.errors import InvalidParameter, QueueFull, ReelError, Unauthorized

log = logging.getLogger("ray.serve.reelgraph.http")

HANDLED = (ReelError, RequestValidationError, HTTPException, Exception)
"""The exceptions for which the application must call `respond_to_error`: all of them."""
QUEUE_FULL_RETRY_AFTER_S = 10


async def respond_to_error(request: Request, error: Exception) -> Response:
    """Return the response for an error. An unexpected one is logged and answered 500 without details."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(QUEUE_FULL_RETRY_AFTER_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        headers.update(error.headers or {})
    status, detail = _describe_error(error, str(request.scope.get("path")))
    return JSONResponse(ErrorBody(error=detail).model_dump(), status, headers)


def format_error_event(error: BaseException) -> str:
    """Return the event that ends an event stream with an error, whose status can no longer be sent."""
    status, detail = _describe_error(error, "event stream")
    return format_event("error", {"type": "error", "status": status, "error": detail.model_dump()})


def _describe_error(error: BaseException, path: str) -> tuple[int, ErrorDetail]:
    """Return the HTTP status and the body of an error; log an unexpected error."""
    param: str | None = None
    if isinstance(error, ReelError):
        status, code, message, param = error.status, error.code, error.message, error.param
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = str(first["loc"][-1])
        status, code, message = 422, InvalidParameter.code, f"{param}: {first['msg']}"
    elif isinstance(error, HTTPException):
        status, code, message = error.status_code, "http_error", str(error.detail)
    else:
        log.error("request failed", extra={"path": path}, exc_info=error)
        status, code, message = 500, "internal_error", "internal server error; it has been logged"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, ErrorDetail(message=message, type=kind, param=param, code=code)

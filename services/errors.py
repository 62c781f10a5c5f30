"""The hierarchy of errors.

ReelError                   code                 status  retryable
├── InvalidRequest          invalid_request      400
│   ├── InvalidParameter    invalid_parameter    422
│   │   └── LimitExceeded   limit_exceeded       422
│   ├── UndecodableMedia    undecodable_media    422
│   ├── PayloadTooLarge     payload_too_large    413
│   ├── Unauthorized        invalid_api_key      401
│   ├── Forbidden           forbidden            403
│   ├── NotFound            not_found            404
│   ├── RangeNotSatisfiable range_not_satisfiable 416
│   └── Conflict            conflict             409
├── QueueFull               queue_full           429     yes
├── Cancelled               cancelled            499
├── ServiceLost             service_lost         503     yes
├── ServiceBusy             service_busy         503     yes
├── ModelFailed             model_failed         500
│   └── DeviceFailed        device_failed        500     yes
├── StorageFailed           storage_failed       500     yes
├── ConfigError             invalid_config       500
└── LeaseLost               lease_lost           500

Each class can be pickled and so can be sent through Ray. A message is written for the author of the request: it names
the field, the limit and the value. `param` is the name of the field in the HTTP API.
"""

from typing import ClassVar


class ReelError(Exception):
    """Base class of all errors. `message` may be shown to the user."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    """HTTP status."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed if it is sent again."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(ReelError):
    """The request is malformed."""

    code = "invalid_request"
    status = 400


class InvalidParameter(InvalidRequest):
    """A field is unknown, missing, of the wrong type or out of range."""

    code = "invalid_parameter"
    status = 422


class LimitExceeded(InvalidParameter):
    """A field or a file exceeds a limit set by the operator."""

    code = "limit_exceeded"


class UndecodableMedia(InvalidRequest):
    """A file is empty, has a different type than declared, or cannot be decoded."""

    code = "undecodable_media"
    status = 422


class PayloadTooLarge(InvalidRequest):
    """A request body exceeds the size limit, or parsing it would exceed the memory limit."""

    code = "payload_too_large"
    status = 413


class Unauthorized(InvalidRequest):
    """The API key is missing or unknown."""

    code = "invalid_api_key"
    status = 401


class Forbidden(InvalidRequest):
    """The configuration does not allow the host or the origin of the request."""

    code = "forbidden"
    status = 403


class NotFound(InvalidRequest):
    """The object does not exist, or belongs to another owner."""

    code = "not_found"
    status = 404


class RangeNotSatisfiable(InvalidRequest):
    """The byte range lies outside the content."""

    code = "range_not_satisfiable"
    status = 416


class Conflict(InvalidRequest):
    """The operation is not possible in the current state of the object."""

    code = "conflict"
    status = 409


class QueueFull(ReelError):
    """The job queue is full."""

    code = "queue_full"
    status = 429
    retryable = True


class Cancelled(ReelError):
    """The request was cancelled."""

    code = "cancelled"
    status = 499


class ServiceLost(ReelError):
    """The process that was doing the work died."""

    code = "service_lost"
    status = 503
    retryable = True


class ServiceBusy(ReelError):
    """The queue of the service is full, or its replica does not have the model."""

    code = "service_busy"
    status = 503
    retryable = True


class ModelFailed(ReelError):
    """The model failed: out of memory, non-finite values, or missing weights."""

    code = "model_failed"


class DeviceFailed(ModelFailed):
    """The device is unusable for this process; the replica is replaced."""

    code = "device_failed"
    retryable = True


class StorageFailed(ReelError):
    """The artifact store or the disk failed."""

    code = "storage_failed"
    retryable = True


class ConfigError(ReelError):
    """The configuration is invalid. Long messages are cut: libraries name every tensor of a file that does not fit."""

    code = "invalid_config"
    longest: ClassVar[int] = 2000
    """Largest length of a message, in characters."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        if len(message) > self.longest:
            message = f"{message[: self.longest - 1]}…"
        super().__init__(message, param=param)


class LeaseLost(ReelError):
    """Another runner has taken over this job."""

    code = "lease_lost"

"""The exceptions of the client.

ClientError
├── ServerUnreachable   no server responds at the URL
├── ConnectionLost      the connection broke before the response was complete
├── ApiError            the server responded with an error
├── UnexpectedAnswer    the response cannot be parsed
├── JobFailed           the job failed; `video.error` has the reason
├── WaitTimedOut        the job did not end in time and is still running (also a TimeoutError)
└── LocalServerFailed   a local server did not start, or stopped unexpectedly
"""

from reelgraph.objects import Video

_TRANSIENT = frozenset({408, 429, 502, 503, 504})


class ClientError(Exception):
    """Base class of the client's exceptions."""


class ServerUnreachable(ClientError):
    """No server responds at `url`.

    Args:
        url: the server's URL.
        why: the reason.
    """

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why

    def __str__(self) -> str:
        return (
            f"no server responds at {self.url} ({self.why}). Start one with `reel serve`, use `--local` to start one "
            "for a single command, or give another URL (--url, REELGRAPH_URL, base_url)"
        )


class ConnectionLost(ClientError):
    """The connection broke before the response was complete."""


class ApiError(ClientError):
    """The server responded with an error.

    Args:
        status: HTTP status.
        message: a sentence for the user.
        type: `invalid_request_error` or `server_error`.
        param: the field that caused the error.
        code: kind of error, e.g. `invalid_parameter`, `queue_full`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,  # noqa: A002 (the API's name)
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(status, message, type, param, code)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code

    def __str__(self) -> str:
        details = ", ".join(
            str(part) for part in (self.status, self.code, self.param and f"param {self.param}") if part
        )
        return f"{self.message} ({details})"

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TRANSIENT


class UnexpectedAnswer(ClientError):
    """The server's response cannot be parsed."""


class JobFailed(ClientError):
    """The job failed; `video.error` has the reason. A job that was cancelled has the code `cancelled`."""

    def __init__(self, video: Video) -> None:
        super().__init__(video)
        self.video = video

    def __str__(self) -> str:
        error = self.video.error
        return f"{self.video.id} failed: {error.message} ({error.code})" if error else f"{self.video.id} failed"


class WaitTimedOut(ClientError, TimeoutError):
    """The job did not end in time; it is still running."""


class LocalServerFailed(ClientError):
    """A local server did not start, or stopped unexpectedly. The message ends with its last log lines."""

"""Everything that goes wrong on this side of the wire, as one tree.

ClientError
├── ServerUnreachable   nothing answers at that address
├── ConnectionLost      the connection broke before the answer was whole
├── ApiError            the server answered with an error
├── UnexpectedAnswer    the server's answer is not one of this API
├── JobFailed           the video's job ended as `failed`; `video` says why
├── WaitTimedOut        the job had not ended in time; it goes on (a TimeoutError too)
└── LocalServerFailed   a server of our own did not come up, or fell
"""

from reelgraph.objects import Video

_TRANSIENT = frozenset({408, 429, 502, 503, 504})


class ClientError(Exception):
    """The root."""


class ServerUnreachable(ClientError):
    """Nothing answers at `url`."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why

    def __str__(self) -> str:
        return (
            f"no server answers at {self.url} ({self.why}). Start one with `reel serve`, let `reel v2v --local` start "
            "one for the call, or name another address (--url, REELGRAPH_URL, base_url)"
        )


class ConnectionLost(ClientError):
    """The connection broke before the answer was whole."""


class ApiError(ClientError):
    """The server answered with an error.

    Args:
        status: HTTP status.
        message: what the server says, fit to be shown.
        type: the kind of error, in the server's words.
        param: the field that it is about.
        code: e.g. `invalid_parameter`, `queue_full`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,  # noqa: A002 (the API's own word)
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
        about = ", ".join(str(part) for part in (self.status, self.code, self.param and f"param {self.param}") if part)
        return f"{self.message} ({about})"

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed when it is made again a little later."""
        return self.status in _TRANSIENT


class UnexpectedAnswer(ClientError):
    """The server's answer is not one of this API."""


class JobFailed(ClientError):
    """The video's job ended as `failed`. A job that somebody stopped has the code `cancelled`."""

    def __init__(self, video: Video) -> None:
        super().__init__(video)
        self.video = video

    def __str__(self) -> str:
        error = self.video.error
        return f"{self.video.id} failed: {error.message} ({error.code})" if error else f"{self.video.id} failed"


class WaitTimedOut(ClientError, TimeoutError):
    """The job had not ended in time; it goes on."""


class LocalServerFailed(ClientError):
    """A server that was started for a call did not come up. The message ends with what it said last."""

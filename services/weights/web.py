"""Downloads of single files over HTTP: resumed by Range, verified by SHA-256, and stored by it."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
from rich.filesize import decimal

from services.errors import ConfigError
from services.weights.downloads import Meter, Told, alone, described
from services.weights.web_file import WebFile, shorten

TIMEOUT = httpx.Timeout(30.0, connect=15.0)
REDIRECTS = 5
ATTEMPTS = 5
"""Requests for one file; a further one is made only if the last one brought bytes or the partial file was stale."""
LARGEST = 32 * 2**30
"""Upper bound of the size of a file in bytes."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MOVED = {301, 302, 303, 307, 308}

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each address, with its query


class WebDownload:
    """One file, its place under REELGRAPH_HOME, and its partial file."""

    def __init__(
        self, file: WebFile, home: Path, param: str = "weights.url", *, timeout: httpx.Timeout = TIMEOUT
    ) -> None:
        self._file, self._param, self._timeout = file, param, timeout
        folder = home / "models" / "files" / file.sha256
        self.path = folder / file.name
        self._partial = folder / ".partial"
        self.lock = home / "models" / ".locks" / f"file--{file.sha256}.lock"

    def find(self) -> Path | None:
        """Return the complete file, or None. The same file under another name is linked, because its name is read."""
        if self.path.is_file():
            return self.path
        others = (path for path in sorted(self.path.parent.glob("*")) if path.is_file() and path != self._partial)
        other = next(others, None)
        if other is None:
            return None
        with suppress(FileExistsError):
            os.link(other, self.path)
        return self.path

    def measure(self) -> tuple[int, int]:
        """Return the total number of bytes and the number to download. Raises ConfigError."""
        found = self.find()
        if found is not None:
            return found.stat().st_size, 0
        with self._explain_errors(), self._client() as client, self._open_answer(client, 0) as answer:
            total = self._read_total(answer, 0) or 0
        return total, max(1, total - self._size())  # a file of unstated size, or a whole part, is still to be fetched

    def fetch(self, told: Told) -> Path:
        """Return the path of the complete file, and download it if it is missing. Raises ConfigError."""
        with self._explain_errors(), alone(self.lock):
            if self.find() is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._complete(told)
                self._partial.replace(self.path)
        return self.path

    def failed(self, what: str) -> ConfigError:
        """Return an error whose message names the address."""
        return ConfigError(f"{self._param}: {self._file.address}: {what}", param=self._param)

    def _complete(self, told: Told) -> None:
        """Download until the partial file has the right hash. A wrong hash deletes it."""
        resumed = self._size() > 0
        self._receive_all(told)
        found = self._hash()
        if found != self._file.sha256 and resumed:  # bytes of another version, or of a machine that lost power
            self._partial.unlink()
            self._receive_all(told)
            found = self._hash()
        if found != self._file.sha256:
            self._partial.unlink()
            raise self.failed(f"the file has SHA-256 {found}, and the configuration names {self._file.sha256}")

    def _receive_all(self, told: Told) -> None:
        """Append to the partial file until it is as long as the server says."""
        with self._client() as client:
            for _ in range(ATTEMPTS):
                before = self._size()
                try:
                    total = self._receive(client, before, told)
                except httpx.TransportError:
                    if self._size() <= before:
                        raise
                    continue
                if total is None or self._size() == total:
                    return
        raise self.failed(f"the server closed the connection {ATTEMPTS} times before the end of the file")

    def _receive(self, client: httpx.Client, start: int, told: Told) -> int | None:
        """Append one response to the partial file, and return the size of the file, or None if it is not stated.

        Returns -1 after deleting a partial file that the server cannot continue.
        """
        with self._open_answer(client, start) as answer:
            if answer.status_code == 416:
                if start and self._hash() == self._file.sha256:
                    return start
                self._partial.unlink(missing_ok=True)
                return -1
            resumes = answer.status_code == 206
            total = self._read_total(answer, start)
            self._need_room((total or 0) - (start if resumes else 0))
            meter = Meter(total or 0, told if total else _ignore)
            meter.add(start if resumes else 0)
            size = start if resumes else 0
            with self._partial.open("ab" if resumes else "wb") as out:
                for chunk in answer.iter_raw():
                    size += len(chunk)
                    if size > (total or LARGEST):
                        raise self.failed(f"the server sends more than {decimal(total or LARGEST)}")
                    out.write(chunk)
                    meter.add(len(chunk))
                out.flush()
                os.fsync(out.fileno())
            return total

    @contextmanager
    def _open_answer(self, client: httpx.Client, start: int) -> Generator[httpx.Response]:
        """Yield the response with the file from byte `start` on, after redirects. Raises ConfigError."""
        url = self._file.url
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        for _ in range(REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as answer:
                if answer.status_code not in _MOVED:
                    self._check_status(answer, start)
                    yield answer
                    return
                url = urljoin(url, answer.headers.get("location", ""))
                parts = urlsplit(url)
                if parts.scheme not in ("http", "https") or not parts.hostname:
                    raise self.failed(f"the server redirects to {shorten(url)}, which is neither http nor https")
        raise self.failed(f"the server redirects more than {REDIRECTS} times")

    def _check_status(self, answer: httpx.Response, start: int) -> None:
        if answer.status_code == 200 or (start and answer.status_code in (206, 416)):
            return
        raise self.failed(f"the server answered {answer.status_code}")

    def _read_total(self, answer: httpx.Response, start: int) -> int | None:
        """Return the size of the whole file as the server states it. Raises ConfigError if it is impossible."""
        if answer.status_code == 206:
            match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if match is None or int(match[1]) != start:
                raise self.failed("the server answered 206 without the Content-Range that was asked for")
            total = int(match[3])
        else:
            length = answer.headers.get("content-length")
            if length is None:
                return None
            total = int(length)
        if total == 0:
            raise self.failed("the file is empty")
        if total > LARGEST:
            raise self.failed(f"the file has {decimal(total)}, and at most {decimal(LARGEST)} are allowed")
        return total

    def _need_room(self, count: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if count > free:
            raise self.failed(f"the download needs {decimal(count)}, and {self.path.parent} has {decimal(free)} free")

    def _size(self) -> int:
        return self._partial.stat().st_size if self._partial.is_file() else 0

    def _hash(self) -> str:
        with self._partial.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=self._timeout, follow_redirects=False)

    @contextmanager
    def _explain_errors(self) -> Generator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise self.failed(f"the server did not answer in time ({type(error).__name__})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.failed(f"the download failed ({type(error).__name__}: {str(error)[:200]})") from error
        except ValueError as error:
            raise self.failed(f"the server redirects to an impossible address ({error})") from error
        except OSError as error:
            raise self.failed(described(error)) from error


def _ignore(_done: int, _total: int) -> None:
    """Report no progress, because the size is not known."""

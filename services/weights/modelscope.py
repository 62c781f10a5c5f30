"""Downloads from modelscope.cn with its client modelscope_hub, in one folder per commit."""

import json
import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path, PurePosixPath
from typing import Any

import modelscope_hub
from modelscope_hub import HubApi, HubConfig, ProgressCallback
from modelscope_hub import errors as hub_errors

from services.weights.downloads import Listing, Meter, Reference, causes, described

SITE = "https://modelscope.cn"
KIND = "model"
_PART = re.compile(r"\.incomplete|_\d+_\d+")
"""Suffix of partial files of modelscope_hub."""

logging.getLogger(modelscope_hub.__name__).setLevel(logging.WARNING)


class ModelScope:
    """One repository at one commit. Partial files are resumed."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._cache = reference.cache / "modelscope"
        home = self._cache / reference.repository.replace("/", "--")
        self.folder = home / reference.revision
        self._list = home / f"{reference.revision}.json"

    def remembered(self) -> Listing | None:
        try:
            return {name: size for name, (size, _) in self._entries().items()}
        except FileNotFoundError:
            return None

    def listed(self) -> Listing:
        wanted = self._reference
        with self._explained():
            entries = self._api().list_repo_files(wanted.repository, KIND, revision=wanted.revision)
        files = {entry.path: (entry.size, entry.sha256) for entry in entries if entry.type != "tree"}
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise wanted.failed(f"the hub names a file outside the repository: {name[:200]}")
        self._list.parent.mkdir(parents=True, exist_ok=True)
        draft = self._list.with_suffix(".draft")
        draft.write_text(json.dumps(files))
        draft.replace(self._list)
        return {name: size for name, (size, _) in files.items()}

    def admitted(self, file: str) -> None:
        """Do nothing: users without access to the files cannot list them either."""

    def arrived(self, files: Listing) -> int:
        return sum(part.stat().st_size for file in files for part in _parts(self.folder / file))

    def download(self, files: Listing, meter: Meter) -> None:
        known = self._entries()
        # Its progress bars on stderr cannot be turned off.
        with self._explained(), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            self._api().download_repo(  # pyright: ignore[reportUnknownMemberType]
                self._reference.repository,
                KIND,
                revision=self._reference.revision,
                cache_dir=self._cache,  # the folder of its lock files
                local_dir=self.folder,
                file_list=[{"Path": file, "Size": known[file][0], "Sha256": known[file][1]} for file in files],
                progress_callbacks=[_counting(meter)],
            )

    def _entries(self) -> dict[str, tuple[int, str | None]]:
        """Return path → (size in bytes, SHA-256 if the hub has it) from the cached list."""
        return json.loads(self._list.read_text())

    def _api(self) -> HubApi:
        return HubApi(HubConfig(endpoint=self._reference.endpoint, cache_dir=self._cache))

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (hub_errors.HubError, OSError, RuntimeError, ValueError) as error:
            first: BaseException = error
            if isinstance(error, hub_errors.FileDownloadError) and error.failed_files:
                first = next(iter(error.failed_files.values()))
            answers = (cause for cause in causes(first) if isinstance(cause, hub_errors.APIError))
            answer = next(answers, None)
            raise self._reference.failed(self._words(answer) if answer else described(first)) from error

    def _words(self, answer: hub_errors.APIError) -> str:
        wanted = self._reference
        page = f"{(wanted.endpoint or SITE).rstrip('/')}/models/{wanted.repository}"
        match answer:
            case hub_errors.PermissionDeniedError():
                return (
                    "access requires accepting its licence. Accept it with your account at "
                    f"{page}, make an access token at {SITE}/my/access/token, and set MODELSCOPE_API_TOKEN to it"
                )
            case hub_errors.AuthenticationError():
                return "the hub requires authentication: set MODELSCOPE_API_TOKEN to a token with read access"
            case hub_errors.NotExistError():
                return f"there is no such repository or commit, or it is private; see {page}"
            case _:
                return f"the hub answered {answer.status_code}"


def _parts(path: Path) -> Iterator[Path]:
    """Yield the partial files of a file."""
    if path.parent.is_dir():
        for found in path.parent.iterdir():
            if found.name.startswith(path.name) and _PART.fullmatch(found.name[len(path.name) :]):
                yield found


def _counting(meter: Meter) -> type[Any]:
    class Counter(ProgressCallback):
        def update(self, size: int) -> None:
            meter.add(size)

    return Counter

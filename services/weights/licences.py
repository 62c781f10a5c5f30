"""Licences of weights.

A licence here is a summary for operators; only the terms at `url` are binding. The folder of each model lists the
licences of its repositories.
"""

from dataclasses import dataclass
from typing import Literal

Commercial = Literal["free", "restricted", "forbidden", "stated", "unknown"]
"""Commercial use: allowed, allowed under conditions, or forbidden without a separate contract. `stated`: the operator
has named the licence and is responsible for checking it."""


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of one set of weights."""

    name: str
    commercial: Commercial
    note: str
    url: str

    @property
    def must_be_accepted(self) -> bool:
        """Whether the licence must be accepted before a download; also true for an unknown licence."""
        return self.commercial not in ("free", "stated")

    def __str__(self) -> str:
        use = "" if self.commercial == "stated" else f"commercial use: {self.commercial}"
        return f"{self.name} ({'; '.join(filter(None, (use, self.note, self.url)))})"


UNKNOWN = Licence("unknown", "unknown", "see the repository", "no address known")


def grant_apache(repository: str) -> Licence:
    """Return the Apache-2.0 licence of a repository on Hugging Face."""
    return Licence("Apache-2.0", "free", "keep the notices", f"https://huggingface.co/{repository}")


def grant_bsd(url: str) -> Licence:
    """Return the BSD-3-Clause licence of a project, whose text is at `url`."""
    return Licence("BSD-3-Clause", "free", "keep the notices", url)


def deny_commerce(repository: str) -> Licence:
    """Return the CC-BY-NC-4.0 licence of a repository on Hugging Face."""
    return Licence("CC-BY-NC-4.0", "forbidden", "not for commercial use", f"https://huggingface.co/{repository}")

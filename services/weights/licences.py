"""The licences of weights.

A summary for whoever chooses a model; the terms themselves are at `url`, and they bind. Each model's folder lists the
repositories that it knows.
"""

from dataclasses import dataclass
from typing import Literal

Commercial = Literal["free", "restricted", "forbidden", "stated", "unknown"]
"""Whether one may earn money with it: as one likes, on conditions, or not without another contract. `stated`: the
operator has named the licence, and is to know."""


@dataclass(frozen=True, slots=True)
class Licence:
    """The terms of one set of weights."""

    name: str
    commercial: Commercial
    note: str
    url: str

    @property
    def must_be_accepted(self) -> bool:
        """Whether somebody should read it before the weights are fetched. What is not known is no permission."""
        return self.commercial not in ("free", "stated")

    def __str__(self) -> str:
        use = "" if self.commercial == "stated" else f"commercial use: {self.commercial}"
        return f"{self.name} ({'; '.join(filter(None, (use, self.note, self.url)))})"


UNKNOWN = Licence("unknown", "unknown", "see the repository", "no address known")


def grant_apache(repository: str) -> Licence:
    """Return Apache-2.0, as a repository on Hugging Face has it."""
    return Licence("Apache-2.0", "free", "keep the notices", f"https://huggingface.co/{repository}")


def deny_commerce(repository: str) -> Licence:
    """Return CC-BY-NC-4.0, as a repository on Hugging Face has it."""
    return Licence("CC-BY-NC-4.0", "forbidden", "not for commercial use", f"https://huggingface.co/{repository}")

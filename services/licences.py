"""Under which terms the weights stand that the project can load.

A short account for whoever chooses a model; the terms themselves are at `url`, and they bind. Each model's folder names
the repositories that it knows.
"""

from dataclasses import dataclass
from functools import cache
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


def licence_of(source: str, stated: str | None = None) -> Licence:
    """Return the terms of a repository or pack, `UNKNOWN` where neither a model nor the operator names them.

    Args:
        source: `owner/name`, a pack's name, or `path:FOLDER`. A folder, or the copy of another owner, is known by the
            last part of its name, because a clone is called like its repository. A copy of another owner keeps the
            conditions of its original, but a name alone is no permission.
        stated: the licence that the operator has named. It counts where the project does not know better.
    """
    known = _known()
    found = known.get(source) or known.get(_last_part(source))
    if (
        found
        and found.commercial == "free"
        and "/" in source
        and source not in known
        and not source.startswith("path:")
    ):
        found = None
    if found is None and stated is not None:
        return Licence(stated, "stated", "as the configuration says", "")
    return found or UNKNOWN


@cache
def _known() -> dict[str, Licence]:
    """By whole name, and by the last part of the name."""
    from services.catalogue import MODELS  # its models import this file

    whole = {name: licence for model in MODELS for name, licence in model.licences.items()}
    return {**{_last_part(name): licence for name, licence in whole.items()}, **whole}


def _last_part(source: str) -> str:
    return source.removeprefix("path:").rpartition("/")[2].lower()

"""The licence that weights are used under: what the models know of a repository, and what the operator has stated."""

from services.catalogue import MODELS
from services.weights.licences import UNKNOWN, Licence
from services.weights.weights import Weights


def find_licence(source: str, stated: str | None = None) -> Licence:
    """Return the licence of a repository or pack; `UNKNOWN` where neither a model nor the operator names it.

    Args:
        source: `owner/name`, a pack's name, or `path:FOLDER`. A folder, or another owner's copy, is recognised by the
            last part of its name, because a clone is called like its repository. A copy keeps the conditions of its
            original, but a name alone is no permission.
        stated: the licence that the operator has named. It counts where the project does not know better.
    """
    known = _BY_NAME.get(source) or _BY_NAME.get(_take_last_part(source))
    is_copy = "/" in source and source not in _BY_NAME and not source.startswith("path:")
    if known is not None and known.commercial == "free" and is_copy:
        known = None
    if known is None and stated is not None:
        return Licence(stated, "stated", "as the configuration says", "")
    return known or UNKNOWN


def find_terms(weights: Weights) -> Licence:
    """Return the licence that these weights are used under."""
    return find_licence(weights.source, weights.licence)


def _take_last_part(source: str) -> str:
    return source.removeprefix("path:").rpartition("/")[2].lower()


_WHOLE = {name: licence for model in MODELS for name, licence in model.licences.items()}
_BY_NAME = {**{_take_last_part(name): licence for name, licence in _WHOLE.items()}, **_WHOLE}
"""Licences by whole name, and by the last part of the name."""

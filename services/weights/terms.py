"""Lookup of the licence of weights: from the list of a model, or as stated by the operator."""

from services.catalogue import MODELS
from services.weights.licences import UNKNOWN, Licence
from services.weights.weights import Weights


def find_licence(source: str, stated: str | None = None) -> Licence:
    """Return the licence of a repository or model pack, or `UNKNOWN`.

    Args:
        source: `owner/name`, the name of a model pack, or `path:FOLDER`. A folder or another owner's copy is recognised
            by the last part of its name, because clones usually keep the name of the repository. A copy inherits the
            restrictions of the original; a free licence is not assumed from the name alone.
        stated: the licence named by the operator; used if the project does not know the licence.
    """
    known = _BY_NAME.get(source) or _BY_NAME.get(_take_last_part(source))
    is_copy = "/" in source and source not in _BY_NAME and not source.startswith("path:")
    if known is not None and known.commercial == "free" and is_copy:
        known = None
    if known is None and stated is not None:
        return Licence(stated, "stated", "as the configuration says", "")
    return known or UNKNOWN


def find_terms(weights: Weights) -> Licence:
    """Return the licence of these weights."""
    return find_licence(weights.source, weights.licence)


def _take_last_part(source: str) -> str:
    return source.removeprefix("path:").rpartition("/")[2].lower()


_WHOLE = {name: licence for model in MODELS for name, licence in model.licences.items()}
_BY_NAME = {**{_take_last_part(name): licence for name, licence in _WHOLE.items()}, **_WHOLE}
"""Licences by full name, and by the last part of the name."""

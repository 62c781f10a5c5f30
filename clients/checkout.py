"""Finds the server's code: next to this package in a checkout or a container image; an installed client has none.

The server's packages are called `services`, `composition` and `miniatures`. A user may have packages with these names,
so the server's are found by their path, never by the working folder.
"""

from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).absolute().parent.parent
"""The folder with the server's packages, if it has any. Links are not resolved: `reelgraph` is a link to `clients`."""
MISSING = (
    "the server is not part of the installed client. It runs from a checkout of reelgraph, or an image of it: "
    "`make setup` there installs its packages"
)


def has_server() -> bool:
    """Return whether the server's code is next to this package."""
    return (CHECKOUT / "composition" / "__main__.py").is_file()


def require_server_code() -> None:
    """Raise ImportError unless `import services` and `import composition` find the packages of this checkout."""
    if not has_server():
        raise ImportError(f"reelgraph.Graphs needs the packages `services` and `composition`: {MISSING}")
    for name in ("services", "composition"):
        found = find_spec(name)
        place = found.origin if found else None
        if place is None or Path(place).resolve().parent != (CHECKOUT / name).resolve():
            raise ImportError(
                f"reelgraph.Graphs needs the package `{name}` of {CHECKOUT}; `import {name}` finds "
                f"{place or 'none'}. Put that folder first in sys.path, or rename the other package"
            )

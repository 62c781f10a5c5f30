"""Where the server's code is: beside this package in a checkout or an image, and nowhere in an installed client.

The server's packages are called `services`, `composition` and `miniatures`, as a user's own may be: they are found by
their place, and never because the working folder has one of that name.
"""

from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).absolute().parent.parent
"""The folder with the server's packages, if there are any. Links are not followed: `reelgraph` is one to `clients`."""
MISSING = (
    "the server is not part of the installed client. It runs from a checkout of reelgraph, or an image of one: "
    "`make setup` there installs what it needs"
)


def has_server() -> bool:
    """Return whether the server's code lies beside this package."""
    return (CHECKOUT / "composition" / "__main__.py").is_file()


def require_server_code() -> None:
    """Raise ImportError unless `services` and `composition` are those of this checkout when they are imported."""
    if not has_server():
        raise ImportError(f"reelgraph.Graphs needs the packages `services` and `composition`: {MISSING}")
    for name in ("services", "composition"):
        found = find_spec(name)
        place = found.origin if found else None
        if place is None or Path(place).resolve().parent != (CHECKOUT / name).resolve():
            raise ImportError(
                f"reelgraph.Graphs needs the package `{name}` of {CHECKOUT}; `import {name}` finds "
                f"{place or 'none'}. Begin sys.path with that folder, or rename what stands before it"
            )

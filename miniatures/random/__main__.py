"""Writes random weights into a folder: `python -m miniatures.random KIND FORM FOLDER`."""

import argparse
import sys
from pathlib import Path

from miniatures.random import find_random_model
from services.catalogue import KINDS


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.random", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("form", help="which of the kind's, e.g. tiny; a wrong one is told the right ones")
    parser.add_argument("folder", type=Path, help="is made where it is not there; must be empty")
    given = parser.parse_args(arguments)
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        if any(given.folder.iterdir()):
            raise ValueError(f"{given.folder} is not empty")
        find_random_model(given.kind).write(given.form, given.folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

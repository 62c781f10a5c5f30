"""Writes random weights into a folder: `python -m miniatures.random KIND FORM FOLDER`."""

import argparse
import sys
from pathlib import Path

from miniatures.random import find_random_model
from services.catalogue import KINDS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.random", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("form", help="form of the checkpoint, e.g. tiny; the error message lists all")
    parser.add_argument("folder", type=Path, help="created if missing; must be empty")
    options = parser.parse_args(arguments)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        if any(options.folder.iterdir()):
            raise ValueError(f"{options.folder} is not empty")
        find_random_model(options.kind).write(options.form, options.folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

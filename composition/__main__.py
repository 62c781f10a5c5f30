"""Run the server on this machine or on a Ray cluster, manage API keys, fetch weights, and generate the client API.

`python -m composition serve --config FILE`, `python -m composition keys create OWNER --config FILE`,
`python -m composition pull --config FILE`, `python -m composition generate`. The command `reel` runs the first three.
"""

import argparse
import sys
import time
from pathlib import Path

from composition.configuration.file import LOCAL_CONFIG, load_configuration, read_configuration
from composition.contract.files import compare_files, write_files
from composition.records.store import Store
from composition.server.pull import Acceptance, exit_on_signal, pull_weights
from composition.server.run import run_server
from services.errors import ConfigError, ReelError
from services.private import be_private


def manage_keys(database: str, action: str, owner: str | None) -> int:
    """Create, list or revoke API keys in a database."""
    store = Store(database)
    if action == "create" and owner:
        print(store.add_key(owner))
        print("This key is not stored and cannot be shown again.", file=sys.stderr)
    elif action == "revoke" and owner:
        print(f"{store.revoke_keys(owner)} revoked")
    elif action == "list":
        for key in store.list_keys():
            created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(key.created_at))
            print(f"{key.owner}\t{created}\tsha256:{key.sha256[:12]}…")
    else:
        raise ConfigError(f"keys {action}: an owner is required")
    return 0


def generate(*, check: bool) -> int:
    """Write the generated files of the client and the docs, or, with `check`, print the differences."""
    if not check:
        for name in write_files():
            print(name)
        return 0
    differences = compare_files()
    for difference in differences.values():
        print(difference)
    return 1 if differences else 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m composition", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("--host")
    serving.add_argument("--port", type=int)
    serving.add_argument(
        "--address", metavar="HOST:PORT", help="address of a Ray cluster; by default the server starts its own Ray"
    )
    serving.add_argument("--only", action="append", default=[], metavar="MODEL")
    keys = commands.add_parser("keys")
    keys.add_argument("action", choices=["create", "list", "revoke"])
    keys.add_argument("owner", nargs="?")
    pulling = commands.add_parser("pull")
    pulling.add_argument("--accept-licences", action="store_true")
    pulling.add_argument("--accept-licence", action="append", default=[], metavar="OWNER/NAME")
    generating = commands.add_parser("generate")
    generating.add_argument(
        "--check", action="store_true", help="write no files; print the differences and fail if there are any"
    )
    for command in (serving, keys, pulling):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return the exit status."""
    options = make_parser().parse_args(arguments)
    if options.command == "generate":
        return generate(check=options.check)
    be_private()
    try:
        if options.command == "serve":
            return run_server(
                lambda: read_configuration(options.config, options.host, options.port, options.only), options.address
            )
        configuration = load_configuration(options.config)
        if options.command == "keys":
            return manage_keys(configuration.state.database_url, options.action, options.owner)
        exit_on_signal()
        acceptance = Acceptance(options.accept_licences, tuple(options.accept_licence))
        return pull_weights(configuration.models, configuration.state.state, acceptance)
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

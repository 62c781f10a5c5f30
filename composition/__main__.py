"""Run the server on this machine, or on the cluster that `--address` or RAY_ADDRESS names; manage keys; fetch weights;
write what the client knows of the API.

`python -m composition serve --config FILE`, `python -m composition keys create OWNER --config FILE`,
`python -m composition pull --config FILE`, `python -m composition generate`. The command line of a user, `reel`, calls
this.
"""

import argparse
import sys
import time
from pathlib import Path

from composition.configuration.file import LOCAL_CONFIG, load_configuration, read_configuration
from composition.contract.files import compare_files, write_files
from composition.records.store import Store
from composition.server.pull import Acceptance, end_at_once, pull
from composition.server.run import run
from services.errors import ConfigError, ReelError
from services.private import be_private


def manage_keys(database: str, action: str, owner: str | None) -> int:
    """Create, list or revoke API keys in a database."""
    store = Store(database)
    if action == "create" and owner:
        print(store.add_key(owner))
        print("This key is not kept and cannot be shown again.", file=sys.stderr)
    elif action == "revoke" and owner:
        print(f"{store.revoke_keys(owner)} revoked")
    elif action == "list":
        for key in store.api_keys():
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(key.created_at))
            print(f"{key.owner}\t{made}\tsha256:{key.sha256[:12]}…")
    else:
        raise ConfigError(f"keys {action}: name the owner")
    return 0


def generate(*, check: bool) -> int:
    """Write what the client and the docs know of requests and answers, or say what is out of date."""
    if not check:
        for name in write_files():
            print(name)
        return 0
    differences = compare_files()
    for difference in differences.values():
        print(difference)
    return 1 if differences else 0


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m composition", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("--host")
    serving.add_argument("--port", type=int)
    serving.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster to serve on, instead of a Ray of its own"
    )
    serving.add_argument("--only", action="append", default=[], metavar="MODEL")
    keys = commands.add_parser("keys")
    keys.add_argument("action", choices=["create", "list", "revoke"])
    keys.add_argument("owner", nargs="?")
    pulling = commands.add_parser("pull")
    pulling.add_argument("--accept-licences", action="store_true")
    pulling.add_argument("--accept-licence", action="append", default=[], metavar="OWNER/NAME")
    generating = commands.add_parser("generate")
    generating.add_argument("--check", action="store_true", help="write nothing; say what differs, and fail if it does")
    for command in (serving, keys, pulling):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    given = parser.parse_args(arguments)
    if given.command == "generate":
        return generate(check=given.check)
    be_private()
    try:
        if given.command == "serve":
            return run(lambda: read_configuration(given.config, given.host, given.port, given.only), given.address)
        configuration = load_configuration(given.config)
        if given.command == "keys":
            return manage_keys(configuration.state.database_url, given.action, given.owner)
        end_at_once()
        acceptance = Acceptance(given.accept_licences, tuple(given.accept_licence))
        return pull(configuration.models, configuration.state.state, acceptance)
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

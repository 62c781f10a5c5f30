"""Run the server on this machine or on a Ray cluster, manage API keys, fetch weights, and generate the client API.

`python -m composition serve --config FILE`, `python -m composition keys create OWNER --config FILE`,
`python -m composition pull --config FILE`, `python -m composition check --config FILE`,
`python -m composition verify FILE…`, `python -m composition generate`. The command `reel` runs the first five.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from composition.configuration.file import LOCAL_CONFIG, Configuration, load_configuration, read_configuration
from composition.contract.files import compare_files, write_files
from composition.http.provenance import describe_report
from composition.media.limits import MediaLimits
from composition.media.marks.reading import inspect_marks
from composition.media.marks.settings import MarksSettings
from composition.records.store import Store
from composition.server.check import GPUS, Question, check_models
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


async def verify_files(files: Sequence[Path], limits: MediaLimits, settings: MarksSettings) -> int:
    """Print what the marks of each file say, as `POST /v1/content_provenance_checks` returns it, one line each."""
    for path in files:
        report = await inspect_marks(path, limits, settings)
        print(describe_report(report).model_dump_json())
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


def _parse_share(text: str) -> float:
    """Return a number above 0 and at most 1."""
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return share


def _parse_gpus(text: str) -> tuple[str, ...]:
    """Parse names of GPUs, separated by commas. Raises ArgumentTypeError if one is unknown."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in GPUS:
            raise argparse.ArgumentTypeError(f"must be names of {', '.join(GPUS)}, separated by commas, got {name}")
    return names


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
    checking = commands.add_parser("check")
    checking.add_argument("--gpu", type=_parse_gpus, default=("h100-80",))
    checking.add_argument("--share", type=_parse_share, default=0.4)
    checking.add_argument("--offline", action="store_true")
    verifying = commands.add_parser("verify")
    verifying.add_argument("files", nargs="+", type=Path, metavar="FILE")
    generating = commands.add_parser("generate")
    generating.add_argument(
        "--check", action="store_true", help="write no files; print the differences and fail if there are any"
    )
    for command in (serving, keys, pulling, checking, verifying):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    return parser


def run_command(options: argparse.Namespace, configuration: Configuration) -> int:
    """Run a command that needs a configuration and no server, and return the exit status."""
    if options.command == "keys":
        return manage_keys(configuration.state.database_url, options.action, options.owner)
    if options.command == "verify":
        state = configuration.state
        return asyncio.run(verify_files(options.files, state.media, state.marks))
    if options.command == "check":
        question = Question(options.gpu, options.share, options.offline)
        return check_models(configuration, configuration.state.state, question)
    exit_on_signal()
    acceptance = Acceptance(options.accept_licences, tuple(options.accept_licence))
    return pull_weights(configuration.models, configuration.state.state, acceptance)


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
        return run_command(options, load_configuration(options.config))
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

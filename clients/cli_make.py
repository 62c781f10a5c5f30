"""What the commands share that have a job done: find a server, carry the order out, say what there is now."""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from reelgraph.cli_resources import Address, connect
from reelgraph.client import Client
from reelgraph.flows import Backoff
from reelgraph.objects import Video
from reelgraph.options import RunOptions
from reelgraph.order import Order, carry_out
from reelgraph.progress import Display, display
from reelgraph.server import local_server

_BESIDE = Backoff(limit=4, first_s=0.25)
"""A server of our own that is gone will not come back."""


def make(ctx: typer.Context, order: Order, how: RunOptions, *, stages: bool = False) -> Video:
    """Carry an order out on the server that the command line names, and say what there is now.

    Args:
        ctx: of the command.
        order: what is wanted.
        how: the options that all such commands have.
        stages: whether the stages of the work are printed too.
    """
    screen = display(sys.stderr)
    with local_client(screen, order.served, ctx.find_object(Address)) if how["local"] else connect(ctx) as client:
        video = carry_out(client, order, screen)
    if stages and not how["as_json"]:
        _print_stages(video)
    report(video, [result.target for result in order.results], as_json=how["as_json"])
    return video


@contextmanager
def local_client(screen: Display, only: Sequence[str], address: Address | None = None) -> Generator[Client]:
    """A client of a server of these graphs or models that lives as long as the block."""
    api_key = address.api_key if address else None
    with local_server(screen, only=only) as url, Client(url, api_key=api_key, backoff=_BESIDE) as client:
        yield client


def report(video: Video, paths: list[Path], *, as_json: bool) -> None:
    """Print what was made, and where it lies."""
    if as_json:
        typer.echo(video.model_copy(update={"paths": [str(path) for path in paths]}).model_dump_json(indent=2))
        return
    if video.caption:
        typer.echo(f"caption: {video.caption}")
    if "seed" in video.params:
        typer.echo(f"seed: {video.params['seed']}")
    for path in paths:
        typer.echo(str(path))


def _print_stages(video: Video) -> None:
    rows = [(stage.name, stage.model, f"{stage.seconds:.1f} s") for stage in video.stages]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, model, seconds in rows:
        typer.echo(f"{name:<{widths[0]}}  {model:<{widths[1]}}  {seconds:>{widths[2]}}")

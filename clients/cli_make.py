"""Shared by the commands that run jobs: find or start a server, run the job, print the results."""

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
from reelgraph.order import JobOrder, run_job
from reelgraph.progress import Display, make_display
from reelgraph.server import local_server

_LOCAL_BACKOFF = Backoff(limit=4, first_s=0.25)
"""Retries with a local server, which does not restart if it stops."""


def run_command(ctx: typer.Context, order: JobOrder, how: RunOptions, *, stages: bool = False) -> Video:
    """Run a job on the server that the command line names, or on a local one, and print the results.

    Args:
        ctx: context of the command.
        order: the job and its results.
        how: the shared options.
        stages: whether to print the stages of the job.
    """
    screen = make_display(sys.stderr)
    with local_client(screen, order.served, ctx.find_object(Address)) if how["local"] else connect(ctx) as client:
        video = run_job(client, order, screen)
    if stages and not how["as_json"]:
        _print_stages(video)
    print_results(video, [result.target for result in order.results], as_json=how["as_json"])
    return video


@contextmanager
def local_client(screen: Display, only: Sequence[str], address: Address | None = None) -> Generator[Client]:
    """Start a local server with these graphs and models, and yield a client of it."""
    api_key = address.api_key if address else None
    with local_server(screen, only=only) as url, Client(url, api_key=api_key, backoff=_LOCAL_BACKOFF) as client:
        yield client


def print_results(video: Video, paths: list[Path], *, as_json: bool) -> None:
    """Print a video's caption and seed, and the paths of its results."""
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

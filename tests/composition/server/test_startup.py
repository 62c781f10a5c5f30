"""Start-up progress."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.progress import Progress

from composition.server.startup import Bar, Lines, Part, list_parts, open_screen, summarize
from services.loading import Loading


def test_deployments_and_models_that_a_process_loads() -> None:
    deployments = {"models": "UPDATING", "ingress": "HEALTHY", "wan": "UNHEALTHY", "flux": "UPSCALING"}
    loading = [Loading("svd", "loading", "decoder"), Loading("internvl", "ready")]
    assert list_parts(deployments, loading) == [
        Part("flux", "ready"),
        Part("ingress", "ready"),
        Part("internvl", "ready"),
        Part("models", "loading"),
        Part("svd", "loading", "decoder"),
        Part("wan", "failed"),
    ]


@pytest.mark.parametrize(
    ("status", "state", "part"),
    [
        ("UPDATING", "loading", Part("wan", "loading", "x")),
        ("UPDATING", "ready", Part("wan", "loading", "x")),  # before its first health check
        ("UPDATING", "failed", Part("wan", "failed", "x")),
        ("HEALTHY", "loading", Part("wan", "ready")),  # one more replica
        ("DEPLOY_FAILED", "loading", Part("wan", "failed")),
    ],
)
def test_a_model_that_is_a_deployment_counts_once(status: str, state, part: Part) -> None:
    assert list_parts({"wan": status}, [Loading("wan", state, "x")]) == [part]


def waiting(*names: str) -> list[Part]:
    return [Part("ingress", "ready"), *(Part(name, "loading") for name in names)]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "starting"),
        (waiting(), "starting"),
        (waiting("wan"), "loading wan"),
        ([Part("wan", "loading", "1 of 2 GB")], "loading wan (1 of 2 GB)"),
        (waiting("a", "b", "c", "d", "e"), "loading a, b, c and 2 more"),
    ],
)
def test_what_is_still_waited_for(parts: Sequence[Part], words: str) -> None:
    assert summarize(parts) == words


def test_a_line_for_each_part_and_no_more_where_no_terminal_is() -> None:
    stream = io.StringIO()
    with open_screen(stream) as screen:
        screen.show_parts([Part("flux", "loading"), Part("wan", "loading")])
        screen.show_parts([Part("flux", "loading"), Part("wan", "ready")])
        screen.print_message("a word")
        screen.show_parts([Part("flux", "failed", "no file"), Part("wan", "ready")])
        screen.show_parts([Part("flux", "failed", "no file"), Part("wan", "loading")])
    assert stream.getvalue().splitlines() == ["wan: loaded", "a word", "flux: could not be loaded (no file)"]
    assert isinstance(screen, Lines)


def test_a_bar_at_a_terminal() -> None:
    stream = io.StringIO()
    bars = Progress(console=Console(file=stream, force_terminal=True, width=80), auto_refresh=False)
    bar = Bar(bars)
    bar.show_parts([Part("flux", "loading"), Part("wan", "ready")])
    (task,) = bars.tasks
    assert (task.description, task.completed, task.total) == ("loading flux", 1, 2)
    bar.print_message("[bold]a word")
    assert "[bold]a word" in stream.getvalue(), "it is no markup"

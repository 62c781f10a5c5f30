"""What `import reelgraph` gives."""

import inspect
import subprocess
import sys

import pytest

import reelgraph
from reelgraph import errors, objects
from reelgraph.handles import Graphs

WAIT_S = 60


def test_what_users_catch_and_annotate_is_there() -> None:
    defined = {
        name
        for module in (errors, objects)
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert len(defined) > 30
    assert defined | {"AsyncClient", "Client", "Event", "Graphs", "ImageEvent"} <= set(reelgraph.__all__)
    assert [name for name in reelgraph.__all__ if not hasattr(reelgraph, name)] == []


def test_graphs_are_those_of_the_handles() -> None:
    assert reelgraph.Graphs is Graphs
    with pytest.raises(AttributeError, match="has no attribute 'Graph'"):
        _ = vars(reelgraph)["__getattr__"]("Graph")


def test_importing_it_imports_nothing_of_the_server() -> None:
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, reelgraph; print(*{names} & {{'services', 'composition', 'ray', 'numpy', 'typer'}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert found.stdout.strip() == ""

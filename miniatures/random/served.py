"""Variants of `serve_config.local.yaml` for tests: with random weights, or with more processes.

Functions take and return the contents of a YAML file, so that the result can be written as one.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from miniatures.random import random_block
from services.catalogue import KINDS

Raw = Mapping[str, Any]
HOSTED = ("models", "graphs")
"""Fields of an application's `args` that list what it hosts."""
PICTURES: dict[str, Any] = {"size": "256x144", "animate": {"max_area": 36864}}
GRAPH_DEFAULTS: Mapping[str, dict[str, Any]] = {"full-pipeline": PICTURES, "storyboard": PICTURES}
"""Graph → defaults of its request, for small and fast jobs."""


def random_models(home: Path) -> dict[str, dict[str, Any]]:
    """Return kind → block of a model with random weights, written below `home`, and small default requests.

    The output is noise; a request takes seconds.
    """
    return {kind: {"defaults": {}, **random_block(kind, home)} for kind in KINDS}


def use_random_weights(raw: Raw, home: Path) -> dict[str, Any]:
    """Return a configuration with all of `random_models`, whose weights are written below `home`."""
    return replace_models(raw, random_models(home))


def replace_models(raw: Raw, blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a configuration with other models and small default requests of its graphs.

    Args:
        raw: contents of the local configuration.
        blocks: kind → block. Kinds that the configuration does not have are added to its first application of models.
    """
    made = deepcopy(dict(raw))
    named: set[str] = set()
    hosts: list[dict[str, Any]] = []
    for application in made["applications"]:
        args = application["args"]
        if "models" in args:
            kinds = {name: entry["kind"] for name, entry in args["models"].items()}
            args["models"] = {name: blocks[kind] for name, kind in kinds.items()}
            named |= set(kinds.values())
            hosts.append(args)
        for name, entry in args.get("graphs", {}).items():
            if name in GRAPH_DEFAULTS:
                entry["defaults"] = GRAPH_DEFAULTS[name]
    hosts[0]["models"] |= {kind: block for kind, block in blocks.items() if kind not in named}
    return made


def host_apart(raw: Raw, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return a configuration in which models and graphs are separate applications, each with its own process.

    Args:
        raw: contents of a configuration file.
        names: models and graphs that get their own application; all by default.
    """
    applications: list[dict[str, Any]] = []
    for application in raw["applications"]:
        field = next((field for field in HOSTED if field in application["args"]), None)
        hosted: dict[str, Any] = application["args"][field] if field else {}
        leaving = {name: entry for name, entry in hosted.items() if names is None or name in names}
        staying = {name: entry for name, entry in hosted.items() if name not in leaving}
        if field is None or staying:
            rest = {**application["args"], field: staying} if field else application["args"]
            applications.append({**application, "args": rest})
        applications += [_host_alone(application, str(field), name, entry) for name, entry in leaving.items()]
    return deepcopy({**raw, "applications": applications})


def _host_alone(application: Raw, field: str, name: str, entry: Any) -> dict[str, Any]:
    args = {key: value for key, value in application["args"].items() if key != "application"}
    deployments = [{**deployment, "name": name} for deployment in application.get("deployments", ())]
    return {**application, "name": name, "args": {**args, field: {name: entry}}, "deployments": deployments}

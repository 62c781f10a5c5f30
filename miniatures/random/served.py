"""`serve_config.local.yaml` with random weights, or with more processes: for tests of how it is served.

Both take and give what a YAML file holds, so that the result can be written as one.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from miniatures.random import random_block
from services.catalogue import KINDS

Raw = Mapping[str, Any]
HOSTED = ("models", "graphs")
"""The fields of an application's `args` that say what it hosts."""
PICTURES: dict[str, Any] = {"size": "256x144", "animate": {"max_area": 36864}}
GRAPH_DEFAULTS: Mapping[str, dict[str, Any]] = {"full-pipeline": PICTURES, "storyboard": PICTURES}
"""Graph → the fields that a request leaves out."""


def random_models(home: Path) -> dict[str, dict[str, Any]]:
    """Return kind → block of a model, with random weights that are written under `home`, and small requests.

    What they make is noise, and made in seconds.
    """
    return {kind: {"defaults": {}, **random_block(kind, home)} for kind in KINDS}


def use_random_weights(raw: Raw, home: Path) -> dict[str, Any]:
    """Return a configuration with all of `random_models`, whose weights are written under `home`."""
    return replace_models(raw, random_models(home))


def replace_models(raw: Raw, blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a configuration with other models in place of its own, and small requests of its graphs.

    Args:
        raw: what the local configuration holds.
        blocks: kind → block. Kinds that the configuration does not name join its first application of models.
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
    """Return a configuration in which models and graphs are applications by themselves: a process for each.

    Args:
        raw: what a configuration file holds.
        names: of the models and graphs that leave the others; by default all.
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

"""The limit of cost of a deployment (`max_pflop`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from services.checkpoint import Checkpoint
from services.cost import Cost, Job, check_cost
from services.levers import CheckpointSettings
from services.weights.folder import describe_folder
from services.weights.local import resolve

Settings = TypeVar("Settings", bound=CheckpointSettings)


def limit_cost(
    estimate: Callable[[Checkpoint, Settings, Job[Any]], Cost],
) -> Callable[[Settings, Path], Callable[[Job[Any]], None]]:
    """Return a function that reads the facts of a deployment's checkpoint and returns its check of requests.

    The check raises LimitExceeded if a request costs more than `max_pflop`.

    Args:
        estimate: returns the cost of a request.
    """

    def load_limit(settings: Settings, home: Path) -> Callable[[Job[Any]], None]:
        limit = settings.max_pflop
        if limit is None:
            return lambda _job: None
        checkpoint = describe_folder(resolve(settings.weights, home), getattr(settings, "variant", None))
        return lambda job: check_cost(estimate(checkpoint, settings, job), limit)

    return load_limit

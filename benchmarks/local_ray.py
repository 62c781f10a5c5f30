"""A separate Ray on this machine, with Serve on a free port, for the duration of a benchmark."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray import serve
from ray.serve import Application


@contextmanager
def local_ray(store_bytes: int | None = None) -> Iterator[None]:
    """Start Ray and Serve, and stop them at the end of the `with` block.

    Args:
        store_bytes: size of the object store, allocated at the start, as in a server that has run for long. By default
            Ray chooses the size, and pages are allocated at their first use.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    system = {"preallocate_plasma_memory": store_bytes is not None}
    ray.init(
        address="local",
        namespace="serve",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=store_bytes,
        _system_config=system,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": free_port()}, logging_config={"log_level": "ERROR"})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def deployed(cls: type, *args: object) -> Application:
    """Bind a class as a deployment with one replica in its own process."""
    deployment = cast("Any", serve.deployment(cls, ray_actor_options={"num_cpus": 0.1}))
    return deployment.bind(*args)


def free_port() -> int:
    """Return an unused TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""A Ray of its own on this machine, with Serve on a free port, for as long as a benchmark runs."""

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
    """Start Ray and Serve, and end them when the block is left.

    Args:
        store_bytes: size of the object store; its pages are all in place from the start, as they are in a server that
            has run for a while. By default Ray's own choice, and the pages come as they are first written.
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
    """Bind a class as one replica in a process of its own."""
    deployment = cast("Any", serve.deployment(cls, ray_actor_options={"num_cpus": 0.1}))
    return deployment.bind(*args)


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

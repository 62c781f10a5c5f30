"""Set-up hook of the worker processes of our own Ray."""

from typing import Any, cast

from ray._common import tls_utils


def bind_to_loopback() -> None:
    """Bind a replica's gRPC server to the loopback interface; Serve would bind it to all interfaces (`[::]`)."""
    private = cast("Any", tls_utils)
    bind = private.add_port_to_grpc_server

    def add_port(server: Any, address: str) -> int:
        return int(bind(server, address.replace("[::]:", "127.0.0.1:")))

    private.add_port_to_grpc_server = add_port

"""A litserve server that streams frames as bytes: `python -m benchmarks.peers.litserve_server PORT`.

A chunk is one frame, which is the fastest: chunks of 16 frames reach a fifth of its speed, and of 64 KiB a third.
"""
# pyright: reportMissingImports=false

import sys
from collections.abc import Iterator
from typing import Any

import litserve
import numpy as np

from benchmarks.clip import make_runs


class Source(litserve.LitAPI):
    """Holds the frames."""

    def setup(self, device: str) -> None:
        del device
        self._runs = {length: make_runs(length) for length in (4, 16)}

    def decode_request(self, request: dict[str, int]) -> dict[str, int]:
        return request

    def predict(self, x: dict[str, int]) -> Iterator[np.ndarray]:
        """Yield `frames` frames in runs of `length`, (length, 720, 1280, 3) uint8."""
        for index in range(x["frames"] // x["length"]):
            yield self._runs[x["length"]][index % 2]

    # litserve passes the annotation to FastAPI, which does not support iterators.
    def encode_response(self, output: Any) -> Any:
        for run in output:
            for frame in run:
                yield frame.tobytes()


if __name__ == "__main__":
    server = litserve.LitServer(Source(stream=True), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)

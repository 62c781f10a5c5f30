"""Consumes a stream of frames from `litserve_server`: `python -m benchmarks.peers.litserve_client PORT LENGTH FRAMES`.

Prints the seconds and the sum of the bytes read, as JSON.
"""

import http.client
import json
import sys
import time

import numpy as np

from benchmarks.clip import FRAME_BYTES, read_pages


def take(port: int, length: int, frames: int) -> dict[str, float]:
    """Read `frames` frames in runs of `length`, each run into a new array."""
    began = time.perf_counter()
    total = 0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"length": length, "frames": frames})
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    response = connection.getresponse()
    for _ in range(frames // length):
        run = np.empty(length * FRAME_BYTES, np.uint8)
        _fill(response, run.data)
        total += read_pages(run)
    response.read()
    connection.close()
    return {"seconds": time.perf_counter() - began, "sum": total}


def _fill(response: http.client.HTTPResponse, room: memoryview) -> None:
    while room:
        read = response.readinto(room)
        if not read:
            raise EOFError(f"the stream ended {len(room)} bytes early")
        room = room[read:]


if __name__ == "__main__":
    print(json.dumps(take(*(int(argument) for argument in sys.argv[1:]))))

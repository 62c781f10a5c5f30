"""Measures how long a model keeps working after its job was cancelled."""

import time

from ray import serve

from benchmarks.report import Goal, Report, Row, find_spread
from benchmarks.serving import CLIP, create_job, fetch_job, serve_application, upload

ROUNDS = 5
JOB = {"prompt": "a meadow", "num_frames": 33, "steps": 100, "max_area": 192 * 112, "seed": 1}

METHOD = f"""\
A V2V job of 33 frames at 192×112 and 100 steps with random weights is cancelled over HTTP in the middle of denoising.
Measured: the time from the response of `POST …/cancel` until the Wan replica reports an idle worker thread (polled
every few milliseconds), and the time of one denoising step in the same job. {ROUNDS} rounds."""


def measure() -> Report:
    """Cancel jobs during denoising and measure the time until the replica is idle."""
    idle: list[float] = []
    steps: list[float] = []
    with serve_application() as client:
        clip = upload(client, CLIP)
        models = serve.get_deployment_handle("models", "models")
        for _ in range(ROUNDS):
            video_id = create_job(client, input_video=clip, **JOB)
            while fetch_job(client, video_id)["stage"] != "denoise" or fetch_job(client, video_id)["progress"] < 12:
                time.sleep(0.05)
            first, begun = fetch_job(client, video_id)["progress"], time.perf_counter()
            while (now := fetch_job(client, video_id)["progress"]) < first + 4:
                time.sleep(0.01)
            # Denoising is 75 % of a job's progress, and has 100 steps here.
            steps.append((time.perf_counter() - begun) / ((now - first) / 0.75))
            client.post(f"/v1/videos/{video_id}/cancel").raise_for_status()
            asked = time.perf_counter()
            while models.info.remote("wan").result().busy:
                time.sleep(0.005)
            idle.append(time.perf_counter() - asked)
    over = [rest - step for rest, step in zip(idle, steps, strict=True)]
    rows: list[Row] = [
        {"what": "from cancel to rest, s", "figure": str(find_spread(idle))},
        {"what": "one step, s", "figure": str(find_spread(steps))},
        {"what": "rest less one step, s", "figure": str(find_spread(over))},
    ]
    goal = Goal("seconds from cancel to rest, less one step", find_spread(over).high, 1.0, at_most=True)
    samples = {"rest_s": idle, "step_s": steps}
    return Report("From cancel to rest", METHOD, rows, [goal], samples, ("ray", "torch", "diffusers"))

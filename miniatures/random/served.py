"""What `serve_config.local.yaml` is given in its place where only the mechanics of serving are tried."""

from pathlib import Path
from typing import Any

from miniatures.random import written

SMALL: dict[str, dict[str, Any]] = {
    "v2v": {"num_frames": 33, "steps": 8, "max_area": 57600, "guidance_scale": 2.0},
    "wan-i2v": {"num_frames": 33, "steps": 8, "max_area": 57600, "guidance_scale": 2.0},
    "rolling-edit": {"steps": 8, "max_area": 57600},
    "svd": {"num_frames": 14, "steps": 8, "max_area": 65536},
    "qwen-edit": {"steps": 8, "max_area": 57600},
    "flux": {"size": "256x256", "steps": 8},
    "full-pipeline": {"size": "256x144", "steps": 8, "animate": {"num_frames": 14, "steps": 8, "max_area": 36864}},
    "text-to-video": {"num_frames": 16, "steps": 8, "size": "128x128"},
}
"""Model → the fields that a request leaves out."""


def random_args(home: Path) -> dict[str, Any]:
    """Return `args` of an application of all models, with random weights written under `home`, and small requests.

    What they make is noise, and made in seconds. To be merged into those of a configuration file.
    """

    def weights(model: str, form: str = "tiny") -> dict[str, str]:
        return {"path": str(written(model, form, home).path)}

    plain = {"dtype": "float32", "max_steps": 100}  # faster than bfloat16 at this size
    wan = {"rate": 16, "max_frames": 121, "max_area": 901120, "preview_every": 2}
    qwen_edit = {"reference_area": 36864, "condition_area": 12544, "max_area": 1048576}
    trunks = {"vgg16": "random", "lpips": "random"}
    identity = {"weights": weights("flux", "identity")}
    return {
        "defaults": SMALL,
        "internvl": {"weights": weights("internvl")},
        "wan": {"weights": weights("wan", "a14b"), **plain, **wan},
        "qwen_edit": {"weights": weights("qwen_edit"), **plain, **qwen_edit, **trunks},
        "flux": {"weights": weights("flux"), **plain, "identity": identity, "preview_every": 1},
        "instantid": {"recogniser": weights("instantid")},
        "hunyuan_dit": {"weights": weights("hunyuan_dit"), **plain},
        "svd": {"weights": weights("svd", "xt"), **plain},
        "realesrgan": {},
        "text_to_video": {"weights": weights("text_to_video"), **plain},
    }

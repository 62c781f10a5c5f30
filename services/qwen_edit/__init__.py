"""Qwen-Image-Edit: image editing with a prompt and reference images, and loss guidance during sampling."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.model import Costs, Model, Offer
from services.qwen_edit.cost import estimate_cost, list_jobs
from services.qwen_edit.request import EditRequest
from services.qwen_edit.settings import QwenEditSettings
from services.weights.licences import Licence, grant_apache, grant_bsd
from services.weights.loras.settings import place_loras

REPOSITORIES = ("Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit-2511")

TORCHVISION = grant_bsd("https://github.com/pytorch/vision/blob/main/LICENSE")

MODEL = Model(
    kind="qwen-edit",
    settings=QwenEditSettings,
    service="services.qwen_edit.service:QwenEdit",
    offers=(Offer("guided-edit", EditRequest),),
    prepare=place_loras,
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    costs=Costs(estimate_cost, list_jobs),
    licences={
        **{name: grant_apache(name) for name in REPOSITORIES},
        "https://download.pytorch.org/models/vgg16-397923af.pth": TORCHVISION,
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth": TORCHVISION,
        "https://github.com/madebyollin/taehv/raw/main/taew2_1.pth": Licence(
            "MIT", "free", "keep the notices", "https://github.com/madebyollin/taehv/blob/main/LICENSE"
        ),
    },
)

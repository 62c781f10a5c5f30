"""HunyuanDiT: image restyling."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.hunyuan_dit.cost import estimate_cost, list_jobs
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.model import Costs, Model, Offer
from services.weights.licences import Licence

REPOSITORIES = (
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
)

MODEL = Model(
    kind="hunyuan-dit",
    settings=HunyuanDitSettings,
    service="services.hunyuan_dit.service:HunyuanDit",
    offers=(Offer("restyle", RestyleRequest),),
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    costs=Costs(estimate_cost, list_jobs),
    licences={
        name: Licence(
            "Tencent Hunyuan Community",
            "restricted",
            "not for every region, nor for the largest services, nor to improve other models",
            f"https://huggingface.co/{name}/blob/main/LICENSE.txt",
        )
        for name in REPOSITORIES
    },
)

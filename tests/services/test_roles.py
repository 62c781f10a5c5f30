"""Each service fulfils the roles that its model offers: pyright compares their methods with those of the roles."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from services.catalogue import MODELS
from services.model import ROLES, Model, Offer
from services.roles import INTERFACES, find_method
from tests.typecheck import check_types

OFFERS = [(model, offer) for model in MODELS for offer in model.offers]


def test_each_role_has_an_interface_of_one_method() -> None:
    assert sorted(INTERFACES) == sorted(ROLES)
    methods = [find_method(role) for role in ROLES]
    assert len(set(methods)) == len(methods)


@pytest.mark.parametrize(("model", "offer"), OFFERS, ids=[f"{model.kind}-{offer.role}" for model, offer in OFFERS])
def test_pictures_beside_the_request_are_arguments_of_the_role(model: Model[Any], offer: Offer) -> None:
    method = getattr(INTERFACES[offer.role], find_method(offer.role))
    assert set(offer.pictures) <= inspect.signature(method).parameters.keys(), model.kind


def promise(number: int, model: Model[Any], offer: Offer) -> str:
    """Return lines of a program that pass type checking only if the service fulfils the role."""
    module, service = model.service.split(":")
    interface = INTERFACES[offer.role].__name__
    request = offer.request
    lines = [f"from {module} import {service}", f"from services.roles import {interface}"]
    if request is None:
        return "\n".join((*lines, f"def promise_{number}(service: {service}) -> {interface}: return service"))
    lines.append(f"from {request.__module__} import {request.__name__}")
    typed = f"{interface}[{request.__name__}]"
    return "\n".join((*lines, f"def promise_{number}(service: {service}) -> {typed}: return service"))


def test_each_service_fulfils_what_its_model_offers(tmp_path: Path) -> None:
    program = "\n".join(promise(number, *offered) for number, offered in enumerate(OFFERS))
    wrong = "from services.svd.service import Svd\ndef lie(service: Svd) -> TextToImage[WanRequest]: return service\n"
    errors = check_types(f"{program}\n{wrong}", tmp_path)
    assert len(errors) == 1, errors
    assert '"Svd" is not assignable to return type "TextToImage[WanRequest]"' in errors[0][1]

import pickle
import re
from collections.abc import Iterator

import pytest

from services import errors
from services.errors import ConfigError, ReelError


def below(parent: type[ReelError]) -> Iterator[type[ReelError]]:
    yield parent
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from below(child)


EVERY_CLASS = list(below(ReelError))
Row = tuple[str, str, str, int, bool]
"""Name, parent's name, code, status and retryability of each error."""


def drawn_tree(docstring: str) -> set[Row]:
    rows: set[Row] = set()
    path: list[str] = []
    for branches, name, code, status, retryable in re.findall(
        r"^((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+) +(\w+) +(\d{3}|status) *(yes|retryable|)$", docstring, re.MULTILINE
    ):
        depth = len(branches) // 4
        path = [*path[:depth], name]
        if depth == 0:  # the root's row is the heading
            rows.add((name, "Exception", ReelError.code, ReelError.status, ReelError.retryable))
        else:
            rows.add((name, path[depth - 1], code, int(status), retryable == "yes"))
    return rows


def test_tree_in_the_docstring_is_the_tree_of_classes():
    classes = {(c.__name__, c.__bases__[0].__name__, c.code, c.status, c.retryable) for c in EVERY_CLASS}

    assert drawn_tree(errors.__doc__ or "") == classes


def test_every_class_of_the_module_is_in_the_tree():
    defined = {value for value in vars(errors).values() if isinstance(value, type)}

    assert defined == set(EVERY_CLASS)


@pytest.mark.parametrize("error_class", EVERY_CLASS)
def test_survives_pickle(error_class: type[ReelError]):
    error = error_class("steps: at most 100 here, got 200", param="steps")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert type(copy) is error_class
    assert (copy.message, copy.param, str(copy)) == (error.message, "steps", error.message)


@pytest.mark.parametrize("error_class", EVERY_CLASS)
def test_has_a_code_of_its_own_and_an_error_status(error_class: type[ReelError]):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error_class.code)
    assert 400 <= error_class.status < 600
    assert [c for c in EVERY_CLASS if c.code == error_class.code] == [error_class]
    assert error_class.__doc__


def test_param_is_optional():
    assert ReelError("no").param is None


def test_a_long_message_of_a_library_is_cut_to_its_beginning():
    tensors = ", ".join(f"blocks.{index}.attn1.to_q.weight" for index in range(5000))

    error = ConfigError(f"weights: the file has other tensors: {tensors}", param="weights")

    assert len(error.message) == 2000
    assert error.message.startswith("weights: the file has other tensors: blocks.0.attn1.to_q.weight, ")
    assert error.message.endswith("…")
    assert pickle.loads(pickle.dumps(error)).message == str(error) == error.message  # noqa: S301
    assert ConfigError("n" * 2000).message == "n" * 2000

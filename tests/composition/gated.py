"""A fake editing service whose scores are given by the seed."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from services.frames import Frames, Item, Scores
from services.qwen_edit.request import EditRequest
from tests.composition.serving import EditService

GOOD: Mapping[str, float | None] = {"edge_loss": 0.5, "lpips_to_init": 0.05}


class ScoredService(EditService):
    """Makes the same pictures as its base class.

    Args:
        scores: seed → the scores of its pictures that differ from GOOD.
        failing: as in the base class.
        hanging: as in the base class.
    """

    def __init__(
        self,
        scores: Mapping[int, Mapping[str, float | None]],
        failing: Mapping[int, Exception] | None = None,
        hanging: int | None = None,
    ) -> None:
        super().__init__(failing, hanging)
        self._scores = scores

    async def edit(
        self,
        request: EditRequest,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
        references: Sequence[Frames] = (),
    ) -> AsyncGenerator[Item]:
        async with aclosing(super().edit(request, image, edges, first, key, references)) as items:
            async for item in items:
                is_scores = isinstance(item, Scores)
                yield replace(item, **{**GOOD, **self._scores.get(request.seed, {})}) if is_scores else item

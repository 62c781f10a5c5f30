# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a type checker says of orders. Nothing runs this: pyright reads it with the other files.

It fails where a mistake below is no longer one.
"""

from reelgraph import AsyncClient, Client
from reelgraph.fields import SvdJobFields
from reelgraph.objects import Video


def order(client: Client, served: str) -> list[Video]:
    """Each name takes its own fields, and the id of a model all of them."""
    fields: SvdJobFields = {"image": "file_1", "fps": 8}
    return [
        client.videos.create(model="svd", **fields),
        client.videos.create(model="svd", image="file_1", motion_bucket_id=90),
        client.videos.create(model="v2v", input_video="file_1", models={"image-to-video": "wan-5b"}),
        client.videos.create(model="text-to-video", prompt="a fox", seconds=4),
        client.videos.create(model=served, image="file_1", prompt="a fox"),
    ]


def mistake(client: Client) -> None:
    """Fields of other models, fields that are forgotten, and values of other types."""
    client.videos.create(model="svd", prompt="a fox")  # pyright: ignore[reportDeprecated]
    client.videos.create(model="text-to-video")  # pyright: ignore[reportDeprecated]
    client.videos.create(model="v2v", fps=8)  # pyright: ignore[reportDeprecated]
    client.videos.create(model="svd", fps="8")  # pyright: ignore[reportCallIssue, reportArgumentType]
    client.videos.create(model="svd", strenght=1)  # pyright: ignore[reportCallIssue]


async def order_later(client: AsyncClient) -> Video:
    """The same with `await`."""
    return await client.videos.create(model="full-pipeline", prompt="a fox", animate={"num_frames": 14}, upscale=False)

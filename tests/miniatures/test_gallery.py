"""The page of the gallery."""

from miniatures import world
from miniatures.gallery import Piece, write_page
from miniatures.sheet import Row


def test_what_a_model_said_is_text_and_never_markup() -> None:
    rows = [
        Row('<script>alert("x")</script>', world.draw(1).clip(1)),
        Row("红色圆形 & {pieces}", world.draw(2).clip(1)),
    ]
    html = write_page([Piece("v2v", "V2V & more", "It's <b>", rows)])
    assert "<script>" not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in html
    assert "V2V &amp; more" in html
    assert "红色圆形 &amp; {pieces}" in html
    assert html.index('src="v2v-0.png"') < html.index('src="v2v-1.png"')

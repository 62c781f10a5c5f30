"""Scripts: what may be filmed, what a language model may answer, and what is made where it does not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from composition.graphs.storyboard.script import (
    EXAMPLE,
    MAX_IMAGE_PROMPT,
    MAX_REASON,
    MAX_SCENE_S,
    MAX_SCENES,
    MAX_TOPIC,
    Malformed,
    Scene,
    Script,
    parse_image_prompt,
    parse_script,
    split_topic,
    write_image_question,
    write_question,
    write_repair,
)
from composition.http.validation import parse_fields
from services.errors import InvalidParameter
from services.internvl.request import DescribeRequest
from services.limits import MAX_TEXT
from services.weights.request import Lora


def scene(number: int = 1, /, **more: Any) -> dict[str, Any]:
    return {"scene_number": number, "description": f"scene {number}", "duration": 4, **more}


def script(*scenes: dict[str, Any], **more: Any) -> Script:
    return Script.model_validate({"scenes": scenes, **more})


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidParameter) as caught:
        parse_fields(Script, fields, {})
    return caught.value.message


def test_scenes_are_sorted_by_their_numbers() -> None:
    assert [one.scene_number for one in script(scene(2), scene(3), scene(1)).scenes] == [1, 2, 3]


@pytest.mark.parametrize("numbers", [(2,), (1, 1), (1, 3), (1, 2, 2), (2, 3)])
def test_a_number_that_is_missing_or_twice_is_refused(numbers: tuple[int, ...]) -> None:
    message = refusal(scenes=[scene(number) for number in numbers])
    assert f"must be 1 to {len(numbers)}, each exactly once, not {list(numbers)}" in message


@pytest.mark.parametrize("count", [0, MAX_SCENES + 1, 10_000])
def test_scenes_are_counted_before_they_are_looked_at(count: int) -> None:
    assert f"must have 1 to 100 scenes, not {count}" in refusal(scenes=["no scene"] * count)


def test_as_many_scenes_as_there_may_be_are_taken() -> None:
    assert len(script(*map(scene, range(1, MAX_SCENES + 1))).scenes) == MAX_SCENES


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0, "greater than 0, got 0"),
        (-1, "greater than 0, got -1"),
        (1e6, "less than or equal to 60, got 1000000.0"),
        (float("nan"), "finite number"),
        (float("inf"), "finite number"),
        ("four", "valid number"),
        (None, "valid number"),
        (10**400, "valid number"),
        ([4], "valid number"),
    ],
)
def test_a_duration_is_some_seconds(duration: object, words: str) -> None:
    message = refusal(scenes=[scene(duration=duration)])
    assert message.startswith("scenes.0.duration: ")
    assert words in message


@pytest.mark.parametrize(("duration", "seconds"), [(0.04, 0.04), (MAX_SCENE_S, 60.0), ("4", 4.0), (True, 1.0)])
def test_durations_are_read_as_other_numbers_are(duration: object, seconds: float) -> None:
    assert script(scene(duration=duration)).scenes[0].duration == seconds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scene_number", 0),
        ("scene_number", 1.5),
        ("scene_number", 10**4000),
        ("description", ""),
        ("description", " \n"),
        ("description", "x" * (MAX_TEXT + 1)),
        ("description", "\ud800"),
        ("style", ""),
        ("face", ""),
        ("face", "x" * 201),
        ("camera", "near"),
    ],
)
def test_a_field_that_cannot_be_is_named(field: str, value: object) -> None:
    assert refusal(scenes=[scene() | {field: value}]).startswith(f"scenes.0.{field}: ")


@pytest.mark.parametrize(
    "value", [5, [], "x", "[1]", '"{}"', "[" * 100_000, '{"a":' * 100_000, f'{{"a":{"9" * 5000}}}']
)
def test_what_is_no_object_is_refused_as_a_whole(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Script.model_validate(value)
    assert caught.value.errors(include_input=False)[0]["loc"] == ()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("oil", [("oil", 1.0)]),
        ("oil.safetensors:0.5", [("oil", 0.5)]),
        ({"name": "oil", "weight": "2"}, [("oil", 2.0)]),
        (["oil:-1", {"name": "ink"}], [("oil", -1.0), ("ink", 1.0)]),
        ('[{"name": "oil"}, "ink:3"]', [("oil", 1.0), ("ink", 3.0)]),
        ([], []),
    ],
)
@pytest.mark.parametrize("field", ["lora", "loras"])
def test_a_lora_has_all_the_forms_that_flux_takes(field: str, given: object, read: list[tuple[str, float]]) -> None:
    (made,) = script(scene() | {field: given}).scenes
    assert list(made.loras) == [Lora(name=name, weight=weight) for name, weight in read]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("oil:99", "0.weight: Input should be less than or equal to 10"),
        (["oil", "./oil"], "oil must be listed once, got 2 times"),
        ([["oil"]], "valid dictionary"),
        ("[" * 100_000, "nested deeper than the limit of 64"),
        ([f"lora{n}" for n in range(9)], "at most 8 items"),
    ],
)
def test_a_lora_that_cannot_be_is_named(given: object, words: str) -> None:
    message = refusal(scenes=[scene(), scene(2, lora=given)])
    assert message.startswith("scenes.1.lora: ")
    assert words in message


def test_a_lora_under_two_names_is_refused() -> None:
    assert refusal(scenes=[scene(lora="oil", loras="ink")]) == "scenes.0.loras: there is no such field"


characters = st.characters(codec="utf-8", exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=40).filter(lambda text: bool(text.strip()))
loras = st.lists(st.sampled_from("abcd"), unique=True).flatmap(
    lambda names: st.tuples(*(st.builds(Lora, name=st.just(name), weight=st.floats(-10, 10)) for name in names))
)
scenes = st.builds(
    Scene,
    scene_number=st.just(1),
    description=texts,
    duration=st.floats(0, MAX_SCENE_S, exclude_min=True),
    face=st.none() | st.from_regex(r"file-[a-f0-9]{8}", fullmatch=True),
    loras=loras,
    style=st.none() | texts,
)
scripts = st.builds(
    lambda title, made: script(
        *(one.model_copy(update={"scene_number": k}).model_dump() for k, one in enumerate(made, 1)), title=title
    ),
    st.text(characters, max_size=200),
    st.lists(scenes, min_size=1, max_size=5),
)


@given(scripts)
def test_a_script_survives_json(made: Script) -> None:
    text = made.model_dump_json()
    assert Script.model_validate_json(text) == made
    assert Script.model_validate(text) == made
    assert Script.model_validate(made.model_dump(mode="json")) == made


ANSWER = json.dumps({"title": "猫", "scenes": [scene(2, style="oil"), scene()]}, ensure_ascii=False)


@pytest.mark.parametrize(
    "around", ["{}", " \n{}\n", "```\n{}\n```", "```json\n{}\n```", "```JSON\r\n{}```\n", "```{}```"]
)
def test_an_answer_may_stand_in_a_fence(around: str) -> None:
    made = parse_script(around.format(ANSWER), 2)
    assert made == script(scene(), scene(2, style="oil"), title="猫")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "nothing else"),
        ("A cat sleeps.", "nothing else"),
        (f"Here it is: {ANSWER}", "nothing else"),
        (f"{ANSWER} I hope you like it.", "Extra data"),
        (f"{ANSWER}\n{ANSWER}", "Extra data"),
        (f"```json\n{ANSWER}\n```\n```json\n{ANSWER}\n```", "nothing else"),
        (f"```json\n{ANSWER}", "nothing else"),
        (f"```json\n{ANSWER}\n```\nDone.", "nothing else"),
        (f"[{ANSWER}]", "not a JSON object"),
        (json.dumps(ANSWER), "not a JSON object"),
        (ANSWER[:-3], "nothing else"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("1" * 5000, "nothing else"),
        ('{"title": "a", "title": "b", "scenes": []}', "twice"),
        ("{}", "scenes: Field required"),
        ('{"scenes": []}', "scenes: must have 1 to 100 scenes, not 0"),
        (json.dumps({"scenes": [scene(3)]}), "scene numbers must be 1 to 1, each exactly once"),
        (json.dumps({"scenes": [scene(duration=1e9)]}), "scenes.0.duration: Input should be less than or equal to 60"),
        (json.dumps({"scenes": [scene(duration=float("nan"))]}), "finite"),
        (json.dumps({"scenes": [scene(face="file-1")]}), "must not be set"),
        (json.dumps({"scenes": [scene(lora="oil")]}), "must not be set"),
        (json.dumps({"scenes": [scene(loras=["oil", "oil"])]}), "must not be set"),
        (
            json.dumps({"scenes": [scene(description="\ud800")]}),
            "scenes.0.description: must not contain the lone surrogate",
        ),
        (json.dumps({"title": "\0", "scenes": [scene()]}), "title: must not contain the character NUL"),
        (json.dumps({"scenes": [scene()], "a\n<b>\x1b" * 200: 1}), "a <b>?a <b>?"),
        (json.dumps({"scenes": [scene()], "a\ud800": 1}), "surrogate"),
    ],
)
def test_any_other_answer_is_malformed_and_says_why(answer: str, words: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_script(answer)
    reason = caught.value.reason
    assert words in reason
    assert reason.isprintable()
    assert 0 < len(reason) <= MAX_REASON
    reason.encode()


@pytest.mark.parametrize("asked", [1, 3])
def test_an_answer_has_as_many_scenes_as_were_asked_for(asked: int) -> None:
    with pytest.raises(Malformed, match=f"the script must have {asked} scenes, and has 2"):
        parse_script(ANSWER, asked)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["title", "scenes", "scene_number", "description", "duration", "style", "face"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
odd_scenes = st.fixed_dictionaries(
    {"scene_number": st.just(1) | values, "description": texts | values, "duration": st.just(4) | values},
    optional={"style": values, "lora": values, "x": values},
)


@given(
    st.text(st.characters(codec=None))
    | values.map(json.dumps)
    | st.fixed_dictionaries({"scenes": st.lists(odd_scenes, max_size=3)}, optional={"title": values}).map(json.dumps)
)
def test_whatever_is_answered_is_a_script_or_malformed(answer: str) -> None:
    try:
        made = parse_script(answer)
    except Malformed as error:
        assert error.reason  # noqa: PT017 - both outcomes are right
    else:
        assert all(one.face is None and one.loras == () for one in made.scenes)


def test_the_question_shows_an_answer_that_would_be_taken() -> None:
    assert len(parse_script(EXAMPLE, 2).scenes) == 2
    asked = write_question("eine Katze {topic}", 2)
    assert EXAMPLE in asked
    assert "exactly 2 scenes" in asked
    assert asked.endswith("eine Katze {topic}")
    assert "exactly 1 scene," in write_question("a", 1)
    assert str(MAX_SCENES) in write_question("a")


@given(st.text(max_size=MAX_TOPIC), st.none() | st.integers(1, MAX_SCENES), st.text(), st.text())
def test_no_question_is_longer_than_a_prompt_may_be(topic: str, count: int | None, answer: str, reason: str) -> None:
    long, topic = answer * 200, (topic * 200)[:MAX_TOPIC]
    for prompt in (
        write_question(topic, count),
        write_repair(topic, count, long, reason * 50),
        write_image_question(long + "x", long),
    ):
        DescribeRequest(prompt=prompt)


def test_what_is_asked_again_has_the_answer_and_the_reason() -> None:
    asked = write_repair("a {cat}", 3, '{"broken": {answer}', "it is\nbroken {reason}")
    assert asked.startswith(write_question("a {cat}", 3))
    assert '{"broken": {answer}' in asked
    assert "it is broken {reason}" in asked
    full = write_repair("x" * MAX_TOPIC, None, "y" * 50_000, "z" * 1000)
    assert len(full) == MAX_TEXT
    assert full.count("y") > 2000


def test_a_topic_that_is_too_long_for_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4000 characters, got 4001"):
        write_question("x" * (MAX_TOPIC + 1))


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        ("A cat sleeps.", ["A cat sleeps."]),
        ("a cat", ["a cat"]),
        ("A cat. A dog! A bird?  An ox", ["A cat.", "A dog!", "A bird?", "An ox"]),
        ("It is 3.5 m long. Really…  Yes.", ["It is 3.5 m long.", "Really…", "Yes."]),
        ('"Come!" she says. He goes.', ['"Come!"', "she says.", "He goes."]),
        ("猫在睡觉。狗在跑！“鸟？”它飞了", ["猫在睡觉。", "狗在跑！", "“鸟？”", "它飞了"]),
        ("1. A cat\n2) A dog\n(3) A bird\n\n- An ox\n• A fox", ["A cat", "A dog", "A bird", "An ox", "A fox"]),
        ("一、猫\n二、狗\n3、鸟", ["猫", "狗", "鸟"]),
        ("1. A cat walks. 2. A dog runs.", ["A cat walks.", "A dog runs."]),
        ("  2001\r\n", ["2001"]),
        ("🎬", ["🎬"]),
    ],
)
def test_a_topics_sentences_are_its_scenes(topic: str, found: list[str]) -> None:
    made = split_topic(topic, None, 2.5)
    assert [one.description for one in made.scenes] == found
    assert made.title == found[0] or found == ["2001"]
    assert {one.duration for one in made.scenes} == {2.5}


def test_sentences_come_again_or_are_joined_to_be_as_many_as_asked() -> None:
    topic = "A. B. C. D. 猫。狗。E."
    assert [one.description for one in split_topic("A. B.", 5, 1).scenes] == ["A.", "B.", "A.", "B.", "A."]
    assert [one.description for one in split_topic(topic, 3, 1).scenes] == ["A. B.", "C. D.", "猫。狗。E."]
    assert split_topic(topic, 1, 1).title == "A."
    assert split_topic("x" * (MAX_TEXT + 1), 1, 1).scenes[0].description == "x" * MAX_TEXT
    many = split_topic("A cat. " * 250, None, 1)
    assert len(many.scenes) == MAX_SCENES
    assert " ".join(one.description for one in many.scenes) == ("A cat. " * 250).strip()


def test_a_title_is_the_first_words() -> None:
    assert (
        split_topic("one two three " * 20, 1, 1).title == "one two three one two three one two three one two three one…"
    )
    assert split_topic("猫" * 100, 1, 1).title == "猫" * 60 + "…"


@given(texts, st.none() | st.integers(1, MAX_SCENES))
def test_every_topic_makes_a_script(topic: str, count: int | None) -> None:
    made = split_topic(topic, count, 4)
    assert count in (None, len(made.scenes))
    assert (
        parse_script(made.model_dump_json(exclude={"scenes": {"__all__": {"face", "loras"}}}, exclude_none=True))
        == made
    )


@pytest.mark.parametrize(
    ("topic", "scenes", "seconds"), [(" ", 1, 1), ("a", 0, 1), ("a", 101, 1), ("a", 1, 61), ("a", 1, 0)]
)
def test_no_script_is_made_of_nothing(topic: str, scenes: int, seconds: float) -> None:
    with pytest.raises(ValidationError):
        split_topic(topic, scenes, seconds)


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ("A small cat, soft light.", "A small cat, soft light."),
        ("  一只猫 \n", "一只猫"),
        ('"A cat"', "A cat"),
        ("“A cat”", "A cat"),
        ("'A cat'", "A cat"),
        ("```\nA cat\n```", "A cat"),
        ('```text\n"A cat"\n```', "A cat"),
        ('"A cat" and "a dog"', '"A cat" and "a dog"'),
        ("'Tis the cat's'", "'Tis the cat's'"),
        ("x" * MAX_IMAGE_PROMPT, "x" * MAX_IMAGE_PROMPT),
    ],
)
def test_a_plain_answer_is_the_pictures_prompt(answer: str, prompt: str) -> None:
    assert parse_image_prompt(answer, "described") == (prompt, True)


UNFIT = ("x" * (MAX_IMAGE_PROMPT + 1), "```\nA cat\n```\nDone", "``````", "a ``` b", "<|a cat|>")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        '""',
        "...",
        "A cat\nA dog",
        "A\tcat",
        "A\x00cat",
        "A\u2028cat",
        "A \ud800 cat",
        "A cat<|im_end|>",
        *UNFIT,
    ],
)
def test_any_other_answer_leaves_the_description(answer: str) -> None:
    assert parse_image_prompt(answer, "described\nin two lines") == ("described\nin two lines", False)


def test_a_picture_is_asked_for_in_its_style() -> None:
    assert "The style: oil {x}\n" in write_image_question("a {cat}", "oil {x}")
    assert write_image_question("a {cat}").endswith("Description: a {cat}")
    assert "style" not in write_image_question("a cat")

"""Dataclasses to JSON and back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pytest

from stream_mla.results.codec import decode, encode


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float
    also: tuple[int, ...] = ()


@dataclass(frozen=True)
class Whole:
    points: tuple[Point, ...]
    names: frozenset[str]
    sizes: Mapping[str, Mapping[int, int]]
    colour: Colour
    maybe: int | None
    flag: bool
    pair: tuple[int, str]


WHOLE = Whole(
    points=(Point(1, 0.1, (2, 3)), Point(-4, 5.0)),
    names=frozenset({"b", "a"}),
    sizes={"scores": {7: 8}},
    colour=Colour.RED,
    maybe=None,
    flag=True,
    pair=(1, "one"),
)


def test_what_is_encoded_can_be_decoded() -> None:
    text = json.dumps(encode(WHOLE))
    assert text == (
        '{"points": {"fields": ["x", "y", "also"], "rows": [[1, 0.1, [2, 3]], [-4, 5.0, []]]}, "names": ["a", "b"], '
        '"sizes": {"scores": {"7": 8}}, "colour": "red", "maybe": null, "flag": true, "pair": [1, "one"]}'
    )
    assert decode(Whole, json.loads(text)) == WHOLE


def test_a_field_that_an_older_file_lacks_takes_its_default() -> None:
    assert decode(tuple[Point, ...], {"fields": ["x", "y"], "rows": [[1, 2]]}) == (Point(1, 2.0),)


@pytest.mark.parametrize(
    ("hint", "value", "error"),
    [
        (Point, {"x": 1}, TypeError),
        (Point, {"x": 1, "y": 2.0, "z": 3}, KeyError),
        (Colour, "blue", ValueError),
        (bool, 1, ValueError),
        (tuple[int, str], [1], ValueError),
        (int, "many", ValueError),
        (tuple[Point, ...], {"fields": ["x", "y"], "rows": [[1]]}, ValueError),
    ],
)
def test_what_is_no_value_of_a_type_is_refused(hint: object, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(hint, value)

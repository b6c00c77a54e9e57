"""Registries: the signature of a function is the schema of its options."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from lepton_p2p.models import BadOption, Registry


@pytest.fixture
def registry() -> Registry[tuple[object, ...]]:
    things: Registry[tuple[object, ...]] = Registry("thing")

    @things.add("pair")
    def pair(context: str, *, left: Annotated[int, Field(ge=0, le=9)], right: float = 0.5) -> tuple[object, ...]:
        """Two numbers."""
        return context, left, right

    return things


def test_options_are_checked_completed_and_passed(registry: Registry[tuple[object, ...]]) -> None:
    assert registry.check("pair", {"left": 3}) == {"left": 3, "right": 0.5}
    assert registry.make("pair", {"left": 3, "right": 2}, "c") == ("c", 3, 2.0)
    assert [(entry.name, entry.summary) for entry in registry] == [("pair", "Two numbers.")]


@pytest.mark.parametrize(
    ("name", "options", "key", "text"),
    [
        ("pear", {}, "", "unknown thing 'pear'; did you mean 'pair'?"),
        ("zzzzz", {}, "", "unknown thing 'zzzzz'; valid: pair"),
        ("pair", {"left": "3"}, "left", "expected integer, got str '3'"),
        ("pair", {"left": 10}, "left", "expected less than or equal to 9, got int 10"),
        ("pair", {}, "left", "is required"),
        ("pair", {"lefd": 1}, "lefd", "unknown key; did you mean 'left'?"),
    ],
)
def test_a_bad_option_is_named(
    registry: Registry[tuple[object, ...]], name: str, options: dict[str, object], key: str, text: str
) -> None:
    with pytest.raises(BadOption) as caught:
        registry.check(name, options)
    assert (caught.value.key, caught.value.text) == (key, text)


def test_a_name_is_registered_once_and_with_words(registry: Registry[tuple[object, ...]]) -> None:
    with pytest.raises(ValueError, match="twice"):
        registry.add("pair")(lambda: ())
    with pytest.raises(ValueError, match="docstring"):
        registry.add("silent")(lambda: ())


def test_an_option_cannot_have_the_key_that_jobs_use(registry: Registry[tuple[object, ...]]) -> None:
    def clash(*, name: str) -> tuple[object, ...]:
        """Clashes."""
        return (name,)

    with pytest.raises(ValueError, match="cannot be an option"):
        registry.add("clash")(clash)

"""Where mutants are listed, and what they are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MUTANTS: dict[str, Callable[[], None]] = {}
"""What each switches off is its docstring; its name is what the table shows."""
KINDS: dict[str, str] = {}
"""Those that are tried on swarms of a kind of their own: "gossip", or "majority"."""


def mutant(function: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[function.__name__.replace("_", "-")] = function
    return function


def mutant_of_gossip(function: Callable[[], None]) -> Callable[[], None]:
    KINDS[function.__name__.replace("_", "-")] = "gossip"
    return mutant(function)


def mutant_of_majority(function: Callable[[], None]) -> Callable[[], None]:
    KINDS[function.__name__.replace("_", "-")] = "majority"
    return mutant(function)


def nothing(*args: object, **kwargs: object) -> None:
    """In place of a method."""


def change(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what ``make`` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))

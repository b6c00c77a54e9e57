"""Where mutants are listed, and what they are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MUTANTS: dict[str, Callable[[], None]] = {}
"""What each switches off is its docstring; its name is what the table shows."""
GOSSIP: set[str] = set()
"""Those that are tried on swarms that gossip."""


def mutant(function: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[function.__name__.replace("_", "-")] = function
    return function


def mutant_of_gossip(function: Callable[[], None]) -> Callable[[], None]:
    GOSSIP.add(function.__name__.replace("_", "-"))
    return mutant(function)


def nothing(*args: object, **kwargs: object) -> None:
    """In place of a method."""


def change(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what ``make`` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))

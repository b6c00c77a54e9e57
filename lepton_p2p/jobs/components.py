"""``[model]``, ``[data]``, ``[optimizer]`` and ``[strategy]``: a registered name with its options, in one table."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from lepton_p2p.jobs.strategy_options import STRATEGIES
from lepton_p2p.models import DATASETS, MODELS, OPTIMIZERS, BadOption, Registry


class Component(BaseModel):
    """``name`` and its checked ``options`` (JSON-able, defaults filled in, so that all peers build the same)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    registry: ClassVar[Registry[Any]]

    name: str
    options: dict[str, Any] = {}

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A bare string is a name without options."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, value: Any) -> Any:
        table = cls.shorthand(value)
        if not isinstance(table, dict):
            raise PydanticCustomError(
                "option", "{text}", _context("", f"expected a table or a name, got {value!r:.60}")
            )
        options = {str(key): option for key, option in table.items() if key != "name"}
        name = table.get("name")
        if not isinstance(name, str):
            text = "is required" if name is None else f"expected string, got {type(name).__name__} {name!r:.60}"
            raise PydanticCustomError("option", "{text}", _context("name", text))
        try:
            return {"name": name, "options": cls.registry.check(name, options)}
        except BadOption as error:
            raise PydanticCustomError("option", "{text}", _context(error.key or "name", error.text)) from None

    @model_serializer
    def _to_table(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


def _context(key: str, text: str) -> dict[str, Any]:
    return {"key": key, "text": text}


class ModelSpec(Component):
    """``[model]``"""

    registry = MODELS


class DataSpec(Component):
    """``[data]``; ``uri`` without a name means ``npz``."""

    registry = DATASETS

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        table = super().shorthand(value)
        return {"name": "npz", **table} if isinstance(table, dict) and "uri" in table else table


class OptimizerSpec(Component):
    """``[optimizer]``"""

    registry = OPTIMIZERS


class StrategySpec(Component):
    """``[strategy]`` or ``strategy = "gossip"``"""

    registry = STRATEGIES

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        self.registry.make(self.name, self.options)
        return self

"""Things that a job may name: functions whose keyword-only parameters are the options of the job file.

The signature is the schema.  Options are checked (strictly: no coercion, nothing unknown) before the function is
called, because job descriptions arrive over the network; give numbers that lead to allocations an upper bound with
``Annotated[int, Field(ge=1, le=...)]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from lepton_p2p.models.nearest import suggest

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

RESERVED = frozenset({"name"})
"""Keys that a job's table uses itself."""


class BadOption(ValueError):
    """An option of a registered thing cannot be used; ``key`` says which ("" for the name itself)."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key
        self.text = text


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A registered ``make`` function and the checked form of its keyword-only parameters."""

    name: str
    make: Callable[..., T]
    options: type[BaseModel]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]


class Registry(Generic[T]):
    """Named functions that make a ``T``; ``kind`` is the word for it in messages ("model", "optimizer")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries[name] for name in self.names())

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return tuple(sorted(self._entries))

    def add(self, name: str) -> Callable[[F], F]:
        """Decorator: register a function under ``name``.  ``ValueError`` if the name is taken or undocumented."""

        def register(make: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            if not inspect.getdoc(make):
                raise ValueError(f"{self.kind} {name!r} has no docstring: users read it to know what they name")
            self._entries[name] = Entry(name, make, _options_of(f"{self.kind} {name}", make))
            return make

        return register

    def entry(self, name: str) -> Entry[T]:
        """The entry called ``name``; :class:`BadOption` with the nearest valid name otherwise."""
        if name not in self._entries:
            raise BadOption("", f"unknown {self.kind} {name!r}; {suggest(name, self._entries)}")
        return self._entries[name]

    def check(self, name: str, options: Mapping[str, object]) -> dict[str, Any]:
        """``options`` checked and completed with defaults, JSON-able; :class:`BadOption` names the first bad key."""
        entry = self.entry(name)
        try:
            return entry.options.model_validate(dict(options)).model_dump()
        except ValidationError as error:
            raise _explain(error, entry) from None

    def make(self, name: str, options: Mapping[str, object], /, *context: object) -> T:
        """Call the function called ``name`` with ``context`` as positional and checked ``options`` as keywords."""
        return self.entry(name).make(*context, **self.check(name, options))


def _options_of(title: str, make: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(make, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.name in RESERVED:
                raise ValueError(f"{title}: {parameter.name!r} cannot be an option, jobs use that key themselves")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    model: type[BaseModel] = create_model(title, __config__=config, **fields)
    return model


def _explain(error: ValidationError, entry: Entry[Any]) -> BadOption:
    detail = first_detail(error)
    key = ".".join(str(part) for part in detail["loc"])
    return BadOption(
        key, explain_detail(detail["type"], detail["msg"], detail["input"], key, entry.options.model_fields)
    )


def first_detail(error: ValidationError) -> ErrorDetails:
    """The error to tell: unknown keys come first, they are usually the cause of the others (misspelt, so missing)."""
    return min(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")


def explain_detail(kind: str, message: str, value: object, key: str, valid: Mapping[str, object]) -> str:
    """One line for one pydantic error: what was expected, what came, and the nearest valid key for an unknown one."""
    if kind == "extra_forbidden":
        return f"unknown key; {suggest(key.rpartition('.')[2], valid)}"
    if kind == "missing":
        return "is required"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    expected = message.removeprefix("Input should be ").removeprefix("a valid ").removeprefix("an valid ")
    return f"expected {expected}, got {type(value).__name__} {shown}"

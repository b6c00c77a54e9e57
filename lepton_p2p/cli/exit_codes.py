"""Exit codes of ``lepton-peer``: one per error class, and the few that are not errors of the library."""

from __future__ import annotations

import inspect

from lepton_p2p import errors
from lepton_p2p.errors import LeptonError

UNEXPECTED = 1
"""A bug: the traceback is printed, because somebody has to repair it.  Also plain :class:`LeptonError`."""
USAGE = 2
"""An option or argument that cannot be parsed; the same as :class:`~lepton_p2p.errors.ConfigError`."""
DEMO_FAILED = 30
"""The demo ran to its end and one of the promises in its table did not hold."""
SIMULATION_FAILED = 31
"""A simulated swarm broke an invariant."""
INTERRUPTED = 130
"""Stopped by Ctrl+C (a running peer leaves the swarm and exits with 0 instead)."""
TERMINATED = 143
"""Stopped by SIGTERM (a running peer leaves the swarm and exits with 0 instead)."""

_OTHERS = (
    (0, "", "Done; for a running peer also: it was told to stop (SIGTERM, Ctrl+C) and has left the swarm."),
    (DEMO_FAILED, "", "The demo ran to its end and one of the promises in its table did not hold."),
    (SIMULATION_FAILED, "", "`lepton-peer simulate`: a simulated swarm broke an invariant."),
    (INTERRUPTED, "", "Stopped by Ctrl+C before it was done; for a running peer: by a second signal, at once."),
    (TERMINATED, "", "A command other than a running peer was stopped by SIGTERM."),
)


def error_classes() -> tuple[type[LeptonError], ...]:
    """Every class of the tree in ``errors.py``, in order of exit code."""
    found = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, LeptonError) and value.__module__ == errors.__name__
    ]
    return tuple(sorted(found, key=lambda cls: cls.exit_code))


def table() -> str:
    """The Markdown table of exit codes that README.md holds between its ``exit codes`` markers."""
    rows = [(cls.exit_code, f"`{cls.__name__}`", inspect.cleandoc(cls.__doc__ or "")) for cls in error_classes()]
    rows += _OTHERS
    lines = ["| code | error | meaning |", "| --- | --- | --- |"]
    for code, name, meaning in sorted(rows):
        lines.append(f"| {code} | {name} | {' '.join(meaning.split()).replace('``', '`')} |")
    return "\n".join(lines)

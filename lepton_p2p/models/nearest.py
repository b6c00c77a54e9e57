"""What the user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """``did you mean 'x'?`` where one of ``valid`` is close to ``wrong``, else all that is valid, in one line."""
    names = sorted(valid)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid: {', '.join(names)}" if names else "nothing is valid here"

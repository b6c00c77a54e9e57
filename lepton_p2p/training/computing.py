"""What a job's own model, loss and optimizer raise while they compute: the job's fault, told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from lepton_p2p.errors import JobError, LeptonError

log = structlog.get_logger()


@contextmanager
def computing(what: str) -> Iterator[None]:
    """Raise :class:`JobError` for whatever the block raises; ``what`` was computed, for its message.

    The traceback is logged as info: who wrote the model needs it, and nobody else.
    """
    try:
        yield
    except LeptonError:
        raise
    except Exception as error:
        log.info("the job's own code failed", what=what, exc_info=error)
        text = " ".join(str(error).split())
        raise JobError(f"{what} failed: {type(error).__name__}: {text} (--log-level info shows where)") from error

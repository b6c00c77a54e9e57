"""All fuzz targets.  A new parser of bytes from the network gets one: in a module here, and in its ``TARGETS``."""

from __future__ import annotations

from fuzzing import documents, links, messages
from fuzzing.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*links.TARGETS, *messages.TARGETS, *documents.TARGETS)}

"""All fuzz targets.  A new parser of bytes from network or disk gets one: in a module here, and in its ``TARGETS``."""

from __future__ import annotations

from fuzzing import checkpoints, claims, credentials, documents, links, messages
from fuzzing.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for room in (links, messages, documents, credentials, claims, checkpoints)
    for target in room.TARGETS
}

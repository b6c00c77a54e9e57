"""All fuzz targets.  A new parser of bytes from the network gets one: in a module here, and in its ``TARGETS``."""

from __future__ import annotations

from fuzzing import credentials, documents, links, messages
from fuzzing.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for room in (links, messages, documents, credentials) for target in room.TARGETS
}

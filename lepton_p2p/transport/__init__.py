"""Bytes in, bytes out, deadlines: gRPC for control (this folder), TCP links for tensors (``links/``).

Nothing is imported here, so that a user of the links does not pay for gRPC and the other way round.
"""

import os

# gRPC's core writes lost connections to stderr in a format of its own; whoever cares learns of them from the calls
# that fail.  It reads the variable once, when it is imported; a value that the user has set stays.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

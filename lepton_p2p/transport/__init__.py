"""Bytes in, bytes out, deadlines: gRPC for control (this folder), TCP links for tensors (``links/``).

Nothing is imported here, so that a user of the links does not pay for gRPC and the other way round.
"""

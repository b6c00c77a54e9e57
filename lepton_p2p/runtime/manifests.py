"""Training's manifest to the one that travels, and back with its digest checked."""

from __future__ import annotations

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training import manifest as training
from lepton_p2p.transport import values


def to_wire(kind: str, manifest: training.Manifest) -> values.Manifest:
    """What the ``State`` service answers."""
    return values.Manifest(
        kind=kind,
        round=manifest.round,
        tensors=tuple(values.TensorSpec(t.name, t.dtype, t.shape, t.offset, t.nbytes) for t in manifest.tensors),
        total_bytes=manifest.total_bytes,
        chunk_bytes=manifest.chunk_bytes,
        chunk_digests=tuple(manifest.chunk_digests),
        meta_json=manifest.meta_json.encode(),
        digest=manifest.digest,
    )


def from_wire(reply: values.Manifest) -> training.Manifest:
    """What training works with; :class:`IntegrityError` if the digest is not that of the contents."""
    try:
        meta = reply.meta_json.decode()
    except UnicodeDecodeError:
        raise IntegrityError("a manifest's meta data is not text") from None
    manifest = training.Manifest(
        round=reply.round,
        tensors=tuple(training.TensorSpec(t.name, t.dtype, t.shape, t.offset) for t in reply.tensors),
        chunk_digests=tuple(reply.chunk_digests),
        meta_json=meta,
        total_bytes=reply.total_bytes,
    )
    manifest.check()
    if manifest.digest != reply.digest or manifest.chunk_bytes != reply.chunk_bytes:
        raise IntegrityError("a manifest does not match its own digest: ask another peer")
    return manifest

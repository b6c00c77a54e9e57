"""The last known members on disk, so that a peer that starts again finds its swarm even if its seeds are gone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import structlog

from lepton_p2p.errors import ConfigError
from lepton_p2p.identity import PeerInfo, peer_id, split_address

_log = structlog.get_logger(__name__)
_LIMIT = 10_000


class AddressBook:
    """``members.json`` in the state directory; written whole to a temporary file, synced, and renamed."""

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "members.json"
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the state directory {folder} cannot be made: {error.strerror}") from None

    def load(self) -> tuple[PeerInfo, ...]:
        """Whom this machine knew last; nothing (and a warning) if the file cannot be understood."""
        if self._file is None or not self._file.exists():
            return ()
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))[:_LIMIT]
            peers = tuple(PeerInfo(peer_id(row["id"]), str(row["address"])) for row in rows)
            for peer in peers:
                split_address(peer.address)
        except Exception as error:
            _log.warning(
                "the file of known members cannot be read and is ignored", file=str(self._file), why=str(error)
            )
            return ()
        return peers

    def save(self, peers: Iterable[PeerInfo]) -> None:
        """Keep ``peers``; an empty list keeps what was known before (it is more use than nothing)."""
        rows = [{"id": peer.id, "address": peer.address} for peer in sorted(peers)]
        if self._file is None or not rows:
            return
        temporary = self._file.with_suffix(".new")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except OSError as error:
            _log.warning("the known members could not be saved", file=str(self._file), why=error.strerror)

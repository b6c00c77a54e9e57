"""This process's one swarm: made by the first call, closed at the end of the program."""

from __future__ import annotations

import atexit
import functools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_p2p.blocking.swarm import LINGER, Swarm
from lepton_p2p.config import PeerSettings, load_settings
from lepton_p2p.errors import ConfigError
from lepton_p2p.logging import filter_library_logs
from lepton_p2p.rounds.config import Partitions
from lepton_p2p.runtime.loop_thread import LoopThread

_lock = threading.Lock()
_thread: LoopThread | None = None
_current: Swarm | None = None


def init_distributed(
    join: str | Sequence[str] | None = None,
    *,
    listen: str | None = None,
    preset: str | None = None,
    swarm: str | None = None,
    insecure: bool | None = None,
    advertise: str | None = None,
    data_port: int | None = None,
    state_dir: str | Path | None = None,
    keys: str | Path | None = None,
    token: str | None = None,
    checkpoint_every: str | int | None = None,
    checkpoint_keep: int | None = None,
    resume: str | Path | None = None,
    partitions: Partitions | None = None,
    min_peers: int | None = None,
) -> Swarm:
    """Start this process's peer and return its swarm; the peer leaves by itself when the program ends.

    join: addresses of peers of the swarm (one that answers is enough); without any, this peer starts a swarm.  All
    options are those of ``lepton-peer``; what is not given comes from ``LEPTON_*`` variables (``LEPTON_JOIN``,
    ``LEPTON_PRESET`` ...), then from the file that ``LEPTON_CONFIG`` names, then from the defaults.

    A second call returns the same swarm until that is closed.  Raises :class:`ConfigError`, :class:`InsecureRefused`,
    :class:`PortInUse`, :class:`AddressError`, :class:`WrongSwarm`, :class:`ProtocolMismatch`,
    :class:`CredentialsRefused`.
    """
    global _thread, _current
    with _lock:
        if _current is not None and not _current.closed:
            return _current
        settings = _settings(
            join=join or None,
            listen=listen,
            preset=preset,
            swarm=swarm,
            insecure=insecure,
            advertise=advertise,
            data_port=data_port,
            state_dir=None if state_dir is None else Path(state_dir),
            keys=None if keys is None else Path(keys),
            token=token,
            checkpoint_every=None if checkpoint_every is None else str(checkpoint_every),
            checkpoint_keep=checkpoint_keep,
            resume=None if resume is None else str(resume),
            partitions=partitions,
            min_peers=min_peers,
        )
        filter_library_logs(settings.log_level)
        if _thread is None or _thread.forked:
            _thread = LoopThread()
        _current = Swarm(settings, _thread)
        _close_at_exit()
        return _current


initdistributed = init_distributed


@functools.cache
def _close_at_exit() -> None:
    """Have the current swarm closed when the program ends.

    Functions registered with ``atexit`` run when thread pools have ended already, without which nothing can be served
    to newcomers; those of ``threading`` run before.  They are private to Python, so there is a second best.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_end_of_program)


def _end_of_program() -> None:
    if _current is not None:
        # After an exception nobody expects the program to stay.
        _current.close(linger=0.0 if getattr(sys, "last_value", None) is not None else LINGER)


def _settings(**options: Any) -> PeerSettings:
    try:
        return load_settings(**options)
    except ConfigError as error:
        # The same words as on the command line, but there are no dashes here.
        raise ConfigError(str(error).removeprefix("--")) from None

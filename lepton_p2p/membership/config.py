"""The knobs of SWIM, each with its formula and what it trades."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lepton_p2p.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SwimConfig:
    """Timings (seconds) and bounds of the membership protocol; n is the number of live members.

    The defaults are those of :meth:`lan`.  Raises :class:`ConfigError` for values that cannot work together.

    probe_interval: one random member is probed in each.  A dead member is first probed after at most about
        2n - 1 intervals, n/(n-1)·1.58 of them expected over the swarm.  Shorter: found sooner, more packets
        (about 2 per member and interval, whatever n).
    probe_timeout: how long a direct ping may take before others are asked to try; above the 99th percentile
        of the round trip, below ``probe_interval`` (the rest of which is left to the indirect probes).
        Shorter: more needless indirect probes; longer: less time for these.
    indirect_probes: how many others are asked.  More: a lossy link is mistaken for a death with
        probability loss^(k+1) only; k·4 packets per failed probe.
    retransmit_multiplier: a rumour is sent multiplier·ceil(log10(n + 1)) times by each who hears it.  More:
        surer to reach all without waiting for a full exchange, more bytes.
    suspicion_multiplier: a suspect has at least multiplier·max(1, log10 n)·probe_interval to refute.  More:
        fewer false deaths, later true ones.
    suspicion_max_multiplier: and at most this many times as long, when nobody else confirms:
        max - ln(c + 1)/ln(k + 1)·(max - min) after c of k = suspicion_multiplier - 2 confirmations.  More: a
        peer that is itself slow is less able to have others declared dead, a lone witness needs longer.
    awareness_max: local health scores stop one below it; a peer in bad health waits up to this many times
        longer before it accuses.
    gossip_interval, gossip_fanout: while there are rumours left to tell, they go to ``fanout`` random members
        every interval; news reaches all in about log(n)/log(fanout + 1) intervals.
    sync_interval: full state is exchanged with one random member every so often (times
        1 + log2(n/32) above 32 members, since its size grows with n; times 0.75 to 1.25).  A new peer begins
        with 1, 2, 4, … probe intervals.  Shorter: heals lost rumours sooner.
    seed_retry_min, seed_retry_max: a seed that does not answer is tried again after
        min(seed_retry_max, seed_retry_min·2^attempts), times a random 0.75 to 1.25; for ever.
        ``seed_retry_min`` is also how long an answer may take before the seed is called silent.
    reconnect_interval: every so often (times 0.5 to 1.5) one random dead member is tried, and seeds that
        are not among the members; this is what joins the halves of a split swarm.
    forget_after: how long the dead and the gone are remembered.  Shorter than a partition lasts: only seeds
        can heal it.  Much longer than rumours travel: late rumours cannot bring back the dead.
    max_members: at most this many peers are remembered (self included), whatever strangers make up.
    max_rumours: at most this many rumours ride on one packet.
    """

    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    indirect_probes: int = 3
    retransmit_multiplier: int = 4
    suspicion_multiplier: int = 4
    suspicion_max_multiplier: int = 6
    awareness_max: int = 8
    gossip_interval: float = 0.2
    gossip_fanout: int = 3
    sync_interval: float = 30.0
    seed_retry_min: float = 0.5
    seed_retry_max: float = 15.0
    reconnect_interval: float = 15.0
    forget_after: float = 86_400.0
    max_members: int = 10_000
    max_rumours: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "indirect_probes" else 1 if isinstance(value, int) else math.ulp(0.0)
            if not (least <= value < math.inf):
                raise ConfigError(f"membership option {field.name} must be finite and at least {least}, not {value!r}")
        if self.probe_timeout >= self.probe_interval:
            raise ConfigError(
                f"probe_timeout ({self.probe_timeout} s) must be below probe_interval ({self.probe_interval} s): "
                "the rest of the interval is for indirect probes"
            )
        if self.seed_retry_max < self.seed_retry_min:
            raise ConfigError(
                f"seed_retry_max ({self.seed_retry_max} s) is below seed_retry_min ({self.seed_retry_min} s): swap them"
            )

    @classmethod
    def local(cls) -> SwimConfig:
        """Peers on one machine: round trips below a millisecond, nothing lost."""
        return cls(
            probe_timeout=0.2,
            indirect_probes=1,
            retransmit_multiplier=2,
            suspicion_multiplier=3,
            gossip_interval=0.1,
            sync_interval=15.0,
            seed_retry_min=0.25,
            seed_retry_max=5.0,
            reconnect_interval=5.0,
            forget_after=3_600.0,
        )

    @classmethod
    def lan(cls) -> SwimConfig:
        """Peers in one building: round trips of a few milliseconds."""
        return cls()

    @classmethod
    def wan(cls) -> SwimConfig:
        """Peers over the internet: round trips up to a second, loss, links that vanish for a while."""
        return cls(
            probe_interval=5.0,
            probe_timeout=3.0,
            suspicion_multiplier=6,
            gossip_interval=0.5,
            gossip_fanout=4,
            sync_interval=60.0,
            seed_retry_min=3.0,
            seed_retry_max=60.0,
            reconnect_interval=60.0,
            forget_after=3 * 86_400.0,
        )

    def retransmissions(self, members: int) -> int:
        """How often each rumour is sent in a swarm of ``members``."""
        return self.retransmit_multiplier * max(1, math.ceil(math.log10(members + 1)))

    def sync_every(self, members: int) -> float:
        """Seconds between two full exchanges in a swarm of ``members``."""
        return self.sync_interval * (1 + max(0.0, math.log2(max(1, members) / 32)))

"""Counting samples: what the ledgers of all peers, merged, say about who used what; independent of the sampler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from signal import SIGKILL

from jobs_for_peers import SAMPLES, SEED
from peer_processes import Line, PeerProcess

from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.permutation import permutation


def merged(peers: Sequence[PeerProcess]) -> list[Line]:
    """One ledger from those of all peers, rounds 1, 2, 3, ...; they must agree bit by bit, and none may be missing.

    The last round of a killed peer does not count: it may have had the result alone, and then the survivors made the
    round again without it.
    """
    rounds: dict[int, Line] = {}
    for peer in peers:
        for number, entry in peer.rounds.items():
            if number == peer.last_round and peer.status == -SIGKILL:
                continue
            known = rounds.setdefault(number, {"shared": entry["shared"], "params": "", "by": peer.name})
            assert entry["shared"] == known["shared"], f"{peer.name} and {known['by']} differ in round {number}"
            for key in ("params", "weights"):
                mine = entry.get(key)
                if mine and known.get(key):
                    assert mine == known[key], f"{peer.name} has other {key} after round {number}"
                elif mine:
                    known[key] = mine
    assert sorted(rounds) == list(range(1, len(rounds) + 1)), "a round was lost"
    return [rounds[number] for number in sorted(rounds)]


class SampleCounter:
    """Follows the claims of the contributors through the passes: no place of a pass twice, no pass left unfinished.

    Where the ledger has the parameters, they must be the tally (see ``jobs_for_peers``) of what was claimed.
    ``start``: the cursor that the ledger begins with, and ``tally`` the count at that point; by default the beginning.
    """

    def __init__(
        self,
        *,
        samples: int = SAMPLES,
        seed: int = SEED,
        start: Cursor | None = None,
        tally: Sequence[float] = (),
    ) -> None:
        self._samples, self._seed = samples, seed
        self._tally = list(tally or [0.0] * samples)
        self.passes = 0
        """How many are complete, in each of which every sample was used exactly once."""
        self._used = Counter[int]()
        self.uses = 0
        if start is not None:
            back = {place for item in start.returned for place in range(item.start, item.stop)}
            self.passes, self._used = start.pass_number, Counter(set(range(start.position)) - back)
            self.uses = self.used

    def add(self, entry: Line) -> None:
        """The next round."""
        shared = entry["shared"]
        assert not shared["refused"]
        claims = [Note.decode(bytes.fromhex(shared["notes"][peer])).claim for peer in shared["contributors"]]
        places = [place for claim in claims for item in claim for place in range(item.start, item.stop)]
        assert len(places) == shared["total_weight"]
        self._used.update(places)
        self.uses += len(places)
        again = [place for place in places if self._used[place] > 1]
        assert not again, f"places {again} of pass {self.passes} were used twice, in round {shared['round']}"
        order = permutation(self._samples, self._seed, self.passes)
        for place in places:
            self._tally[order[place]] += 1 / len(places)
        if len(self._used) == self._samples:
            self.passes, self._used = self.passes + 1, Counter()
        if "weights" in entry:
            _assert_tally(entry["weights"], self._tally, shared["round"])
            # What is known to be the same is made equal, so that roundings do not add up in a long training.
            self._tally = [-weight for weight in entry["weights"]]

    def unite(self, other: SampleCounter, root: SampleCounter, share: float) -> None:
        """``other`` is brought in, which has gone on from ``root`` apart from this; it has ``share`` of the weight."""
        self._tally = [mine + share * (theirs - mine) for mine, theirs in zip(self._tally, other._tally, strict=True)]
        self.uses += other.uses - root.uses
        if other.passes > self.passes:
            self.passes, self._used = other.passes, other._used.copy()
        elif other.passes == self.passes:
            self._used = Counter({*self._used, *other._used})
        if len(self._used) == self._samples:
            self.passes, self._used = self.passes + 1, Counter()

    @property
    def used_twice(self) -> int:
        """Uses of places that were used before."""
        return self.uses - self.used

    @property
    def used(self) -> int:
        """Samples in all passes, each once in each."""
        return self.passes * self._samples + len(self._used)

    def copy(self) -> SampleCounter:
        """Another one that stands at the same place."""
        other = SampleCounter(samples=self._samples, seed=self._seed, tally=self._tally)
        other.passes, other._used, other.uses = self.passes, self._used.copy(), self.uses
        return other


def count_passes(ledger: Sequence[Line], *, start: Cursor | None = None, tally: Sequence[float] = ()) -> int:
    """How many passes are complete, in each of which every sample was used exactly once; see ``SampleCounter``."""
    counter = SampleCounter(start=start, tally=tally)
    for entry in ledger:
        counter.add(entry)
    return counter.passes


def _assert_tally(weights: Sequence[float], tally: Sequence[float], round: int) -> None:
    """The parameters are the tally, within float32 rounding: far less than one sample more or less."""
    for index, (weight, expected) in enumerate(zip(weights, tally, strict=True)):
        assert abs(-weight - expected) < 0.01, f"sample {index}: {-weight} and not {expected} after round {round}"

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


def count_passes(
    ledger: Sequence[Line],
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    start: Cursor | None = None,
    tally: Sequence[float] = (),
) -> int:
    """How many passes are complete, in each of which every sample was used exactly once.

    ``start``: the cursor that the ledger begins with, and ``tally`` the count at that point; by default the beginning.

    Follows the claims of the contributors through the passes: no place of a pass twice, no pass left before it is full.
    Where the ledger has the parameters, they must be the tally (see ``jobs_for_peers``) of what is claimed.
    """
    tally = list(tally or [0.0] * samples)
    number, used = 0, Counter[int]()
    if start is not None:
        back = {place for item in start.returned for place in range(item.start, item.stop)}
        number, used = start.pass_number, Counter(set(range(start.position)) - back)
    for entry in ledger:
        shared = entry["shared"]
        assert not shared["refused"]
        claims = [Note.decode(bytes.fromhex(shared["notes"][peer])).claim for peer in shared["contributors"]]
        places = [place for claim in claims for item in claim for place in range(item.start, item.stop)]
        assert len(places) == shared["total_weight"]
        used.update(places)
        again = [place for place, times in used.items() if times > 1]
        assert not again, f"places {again} of pass {number} were used twice, in round {shared['round']}"
        order = permutation(samples, seed, number)
        for place in places:
            tally[order[place]] += 1 / len(places)
        if len(used) == samples:
            number, used = number + 1, Counter()
        if "weights" in entry:
            _assert_tally(entry["weights"], tally, shared["round"])
    return number


def _assert_tally(weights: Sequence[float], tally: Sequence[float], round: int) -> None:
    """The parameters are the tally, within float32 rounding: far less than one sample more or less."""
    for index, (weight, expected) in enumerate(zip(weights, tally, strict=True)):
        assert abs(-weight - expected) < 0.01, f"sample {index}: {-weight} and not {expected} after round {round}"

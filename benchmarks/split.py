#!/usr/bin/env python3
"""Split a swarm of real peers in two for a while and watch its loss: docs/partitions.md and its plot come from here.

    python benchmarks/split.py [--apart 30] [--policy majority] [--json FILE] [--plot FILE.svg]

As root, for every peer is a machine of its own (a network namespace); both halves are cut off from each other by
iptables.  What the swarm says afterwards is checked: equal parameters after every round, no sample lost, and as many
used twice as both halves have used.  The plot needs the extra ``plots`` (matplotlib).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training_processes"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from network_namespaces import Network, apart, impossible, live_apart
from peer_processes import Launcher, Line, PeerProcess, TrainingSwarm

from lepton_p2p.replication.notes import Note

PORT = 7700
USED_TWICE = "samples_used_twice"
DROPPED = "dropped by the swarm"
"""What a peer logs that goes over to the other half's training."""
SMOOTH = 0.5
JOB = """\
name = "split"
seed = 7
batch_size = 16
evaluate_every = 0
loss = "cross_entropy"
[model]
name = "mlp"
sizes = [64, 128, 64, 10]
[data]
name = "digits"
[optimizer]
name = "sgd"
lr = {lr}
[schedule]
passes = 100000
"""
Round = tuple[int, tuple[str, ...]]


@dataclass(frozen=True)
class Halves:
    """Two halves of the peers, and when they were parted and met (seconds of the common clock)."""

    left: Sequence[PeerProcess]
    right: Sequence[PeerProcess]
    cut: float
    healed: float
    united: float


def main() -> int:
    options = _options()
    if not apart():
        if why := impossible():
            sys.exit(f"split.py: network namespaces cannot be made here: {why}")
        live_apart()
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=4, help="half of them, rounded down, on the right side")
    parser.add_argument("--before", type=float, default=15.0, help="seconds of training before the split")
    parser.add_argument("--apart", type=float, default=30.0, help="seconds for which the halves are apart")
    parser.add_argument("--after", type=float, default=15.0, help="seconds of training after they are one again")
    parser.add_argument("--policy", choices=("continue", "majority"), default="continue")
    parser.add_argument("--lr", type=float, default=0.002, help="low, so that the loss is still falling at the end")
    parser.add_argument("--json", type=Path, help="write what was seen there")
    parser.add_argument("--plot", type=Path, help="draw the loss there (.svg)")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> int:
    network = Network()
    await network.build(options.peers)
    with tempfile.TemporaryDirectory(prefix="lepton-split-") as name:
        folder = Path(name)
        async with Launcher(folder) as launcher, TrainingSwarm(launcher, folder) as swarm:
            halves = await _split(swarm, network, folder, options)
            report = _report(halves, options)
    network.close()
    print(json.dumps({key: value for key, value in report.items() if key != "loss"}, indent=2))
    if options.json:
        # A line for each figure and each curve.
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in report.items())
        options.json.write_text(f"{{\n{lines}\n}}\n")
    if options.plot:
        _plot(report, options.plot)
    return 0


async def _split(swarm: TrainingSwarm, network: Network, folder: Path, options: argparse.Namespace) -> Halves:
    job = folder / "job.toml"
    job.write_text(JOB.format(lr=options.lr))
    peers: list[PeerProcess] = []
    for place in network.places:
        join = ("--join", peers[0].address) if peers else ("--job", str(job))
        address = ("--listen", f"{place.host}:{PORT}", "--insecure", "--partitions", options.policy)
        peers.append(await swarm.start(*join, *address, network=place.path))
    await swarm.together(peers)
    for peer in peers:
        peer.may_yield = True
    await _time_passes(swarm, options.before)
    at = (options.peers + 1) // 2
    left, right = peers[:at], peers[at:]
    cut = time.monotonic()
    for place in network.places[at:]:
        await place.cut("-I", network.places[:at], heard=True, said=True)
    await _time_passes(swarm, options.apart)
    healed = time.monotonic()
    for place in network.places[at:]:
        await place.cut("-D", network.places[:at], heard=True, said=True)
    await swarm.together(peers)
    await swarm.until("nobody has anything to bring in", lambda: options.policy == "majority" or _agree(peers))
    united = time.monotonic()
    await _time_passes(swarm, options.after)
    await swarm.trained(peers, 3)
    return Halves(left, right, cut, healed, united)


async def _time_passes(swarm: TrainingSwarm, seconds: float) -> None:
    end = time.monotonic() + seconds
    await swarm.until(f"{seconds:g} s are over", lambda: time.monotonic() >= end, patience=seconds + 60)


def _agree(peers: Iterable[PeerProcess]) -> bool:
    """Whether all count the same samples as used twice, and some."""
    return len({_twice(peer) for peer in peers}) == 1 and all(_twice(peer) for peer in peers)


def _twice(peer: PeerProcess) -> float:
    return float(peer.rounds[peer.last_round]["metrics"].get(USED_TWICE, 0.0))


# -- what was seen ---------------------------------------------------------------------------------------------


def _report(halves: Halves, options: argparse.Namespace) -> dict[str, Any]:
    peers = (*halves.left, *halves.right)
    _check_digests(peers)
    sides = [_history(side) for side in (halves.left, halves.right)]
    heavier = _heavier(halves, sides)
    prevailing, brought = sides[heavier], sides[1 - heavier]
    common = max(key[0] for key in prevailing.keys() & brought.keys() if prevailing[key]["at"] < halves.healed)
    # Not those from before the others came, which they never told of.
    parted = {key: line for key, line in brought.items() if key not in prevailing and key[0] > common}
    alone = {key: line for key, line in parted.items() if line["at"] < halves.united}
    # Of a round that was under way when both met one may hold the result and bring that in later than the others.
    union = max((key[0] for key, line in prevailing.items() if _brings(line)), default=common)
    mine = {key: line for key, line in prevailing.items() if common < key[0] <= union}
    start = next(line["pass"] for key, line in prevailing.items() if key[0] == common)
    used = [_used(lines.values(), start) for lines in (mine, alone)]
    twice = len(used[0] & used[1])
    said = {_twice(peer) for peer in peers}
    if said != {float(twice)}:
        raise AssertionError(f"{twice} samples were used by both halves, the peers say {said}")
    return {
        "peers": len(peers),
        "policy": options.policy,
        "seconds_apart": round(halves.healed - halves.cut, 1),
        "seconds_from_healing_to_one_again": round(halves.united - halves.healed, 2),
        "rounds_of_the_heavier_half": len(mine),
        "rounds_of_the_other_half": len(alone),
        "samples_of_the_heavier_half": len(used[0]),
        "samples_of_the_other_half": len(used[1]),
        "samples_used_twice": twice,
        "seconds": {"healed": round(halves.healed - halves.cut, 2), "united": round(halves.united - halves.cut, 2)},
        "loss": {"heavier": _losses(prevailing.values(), halves.cut), "other": _losses(alone.values(), halves.cut)},
    }


def _heavier(halves: Halves, sides: list[dict[Round, Line]]) -> int:
    """Which of the sides the other was brought into: 0 is the left one.

    Both may have been dropped, one after the other, until all of them were together.
    """
    bringing = [line for lines in sides for line in lines.values() if _brings(line)]
    if bringing:
        first = min(bringing, key=lambda line: float(line["at"]))
        bearers = {bearer[:8] for bearer in first["shared"]["contributors"]}
        return int(not bearers.isdisjoint(peer.id for peer in halves.left))
    return 0 if any(DROPPED in peer.log for peer in halves.right) else 1


def _lines(peer: PeerProcess) -> dict[Round, Line]:
    """All rounds that a peer told of, in any lineage."""
    found = [line for rounds in (*peer.past, peer.rounds) for line in rounds.values()]
    return {(line["round"], tuple(line["shared"]["members"])): line for line in (*found, *peer.void)}


def _history(peers: Iterable[PeerProcess]) -> dict[Round, Line]:
    """All rounds that anybody of a half told of; who holds the state, and not only joins, knows where that stands."""
    told = [_lines(peer) for peer in peers]
    keys = sorted({key for lines in told for key in lines})
    return {
        key: max((lines[key] for lines in told if key in lines), key=lambda line: bool(line["params"])) for key in keys
    }


def _check_digests(peers: Iterable[PeerProcess]) -> None:
    digests: dict[Round, set[str]] = {}
    for peer in peers:
        for key, line in _lines(peer).items():
            digests.setdefault(key, set()).update({line["params"]} - {""})
    if unequal := [key for key, found in digests.items() if len(found) > 1]:
        raise AssertionError(f"parameters differ after {unequal}")


def _notes(line: Line) -> list[Note]:
    return [Note.decode(bytes.fromhex(line["shared"]["notes"][peer])) for peer in line["shared"]["contributors"]]


def _brings(line: Line) -> bool:
    return any(note.branch is not None for note in _notes(line))


def _used(lines: Iterable[Line], pass_number: int) -> set[tuple[int, int]]:
    """(pass, place) of every sample in these rounds, which come in order; ``pass_number``: before the first."""
    used: set[tuple[int, int]] = set()
    for line in sorted(lines, key=lambda line: int(line["round"])):
        ranges = [item for note in _notes(line) for item in note.claim]
        used.update((pass_number, place) for item in ranges for place in range(item.start, item.stop))
        pass_number = line["pass"]
    return used


def _losses(lines: Iterable[Line], cut: float) -> list[tuple[float, float]]:
    """(seconds since the cut, mean loss) of every round with samples."""
    found = []
    for line in sorted(lines, key=lambda line: float(line["at"])):
        notes = _notes(line)
        if count := sum(item.size for note in notes for item in note.claim):
            found.append((round(line["at"] - cut, 3), round(sum(note.loss_sum for note in notes) / count, 5)))
    return found


def _plot(report: dict[str, Any], path: Path) -> None:
    """Means over ``SMOOTH`` seconds; the split is grey."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.axvspan(0, report["seconds"]["healed"], color="0.92", label="split")
    axes.axvline(report["seconds"]["united"], color="0.5", linestyle=":", label="one again")
    for name, colour in (("heavier", "tab:blue"), ("other", "tab:orange")):
        bins: dict[int, list[float]] = {}
        for at, loss in report["loss"][name]:
            bins.setdefault(int(at // SMOOTH), []).append(loss)
        times = [SMOOTH * (number + 0.5) for number in sorted(bins)]
        means = [sum(bins[number]) / len(bins[number]) for number in sorted(bins)]
        axes.plot(times, means, color=colour, label=f"{name} half" if name == "other" else "heavier half, then all")
    axes.set(xlabel="seconds since the cut", ylabel="training loss", title=f"{report['peers']} peers, two halves")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())

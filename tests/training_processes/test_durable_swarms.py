"""All peers are killed at once; what is on disk brings the training back, bit by bit where the number is the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from disks import fill, small_file_system
from jobs_for_peers import SAMPLES, gossiping_digits, small_job, tally_job
from peer_processes import PeerProcess, TrainingSwarm, status_of
from safetensors.torch import load_file
from samples import count_passes, merged

from lepton_p2p.client import connect
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.checkpoints.files import MANIFEST, TENSORS

STEPS = 900
EVERY = 40
RESUMED = re.compile(r"the training goes on from a checkpoint[; ].*")


class Restarts:
    """Peers with a state directory each, by number; they are killed together and started again."""

    def __init__(self, swarm: TrainingSwarm, job: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.swarm, self.env = swarm, env
        self.options = ("--job", str(job), "--checkpoint-every", str(EVERY), *options)

    def folder(self, number: int) -> Path:
        return self.swarm.folder / f"state{number}"

    async def start(self, *numbers: int, options: Sequence[str] = ()) -> list[PeerProcess]:
        """The first of them starts a swarm, the others join it."""
        peers: list[PeerProcess] = []
        for number in numbers:
            join = ("--join", peers[0].address) if peers else ()
            state = ("--state-dir", str(self.folder(number)))
            peers.append(await self.swarm.start(*self.options, *options, *state, *join, env=self.env))
            peers[-1].may_yield = True
        return peers

    async def kill_all_after(self, peers: Sequence[PeerProcess], step: int) -> None:
        """SIGKILL to all at once when the training has come to ``step`` and a checkpoint of each is on disk."""
        await self.swarm.until(
            f"step {step} is made", lambda: all(peer.rounds and last_step(peer) >= step for peer in peers)
        )
        for peer in peers:
            peer.signal(9)
        await self.swarm.until("all are dead", lambda: not any(peer.running for peer in peers))

    def newest(self, number: int) -> Path:
        """The newest checkpoint of a peer."""
        return max((self.folder(number) / "checkpoints").glob("checkpoint-*"))


def last_step(peer: PeerProcess) -> int:
    return int(peer.rounds[peer.last_round]["step"]) if peer.rounds else 0


def manifest(checkpoint: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_bytes())
    return table


def resumed(peer: PeerProcess) -> dict[str, int]:
    """The numbers of the line in which it says where it goes on."""
    found = RESUMED.search(peer.log)
    assert found is not None, peer.log
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", found[0])}


def resumed_from(peer: PeerProcess) -> Path:
    """The checkpoint."""
    line = RESUMED.search(peer.log)
    found = re.search(r"checkpoint=(\S+)", line[0] if line else "")
    assert found is not None, peer.log
    return Path(found[1].strip("'"))


async def undisturbed(swarm: TrainingSwarm, peers: int) -> str:
    """The digest of the parameters that the small job ends with, when nothing happens to ``peers`` peers."""
    job = ("--job", str(small_job(swarm.folder, steps=STEPS)), "--min-peers", str(peers))
    first = await swarm.start(*job)
    others = [await swarm.start(*job, "--join", first.address) for _ in range(peers - 1)]
    await swarm.done([first, *others])
    assert first.final is not None
    for peer in (first, *others):
        await swarm.stop(peer)
    return str(first.final["params"])


def final(peers: Sequence[PeerProcess]) -> tuple[int, str]:
    assert peers[0].final is not None
    return int(peers[0].final["step"]), str(peers[0].final["params"])


async def test_after_a_kill_of_all_the_same_number_ends_with_the_same_bits_as_if_nothing_had_happened(
    swarm: TrainingSwarm,
) -> None:
    expected = await undisturbed(swarm, 3)
    restarts = Restarts(swarm, small_job(swarm.folder, steps=STEPS), "--min-peers", "3")
    before = await restarts.start(0, 1, 2)
    await restarts.kill_all_after(before, 300)
    reached = max(last_step(peer) for peer in before)
    after = await restarts.start(2, 0, 1)  # another one is first now
    await swarm.done(after)
    assert final(after) == (STEPS, expected)

    told = [resumed(peer) for peer in after if RESUMED.search(peer.log)]
    assert told, "nobody said where it goes on"
    for numbers in told:
        assert numbers["step"] % EVERY == 0
        assert numbers["step"] + numbers["lost_steps"] - reached in (-1, 0, 1)
        assert numbers["lost_steps"] <= 2 * EVERY, "one interval, and one that may be on its way to the disk"


async def test_a_first_peer_that_lost_its_disk_does_not_begin_anew(swarm: TrainingSwarm) -> None:
    expected = await undisturbed(swarm, 3)
    restarts = Restarts(swarm, small_job(swarm.folder, steps=STEPS), "--min-peers", "3")
    await restarts.kill_all_after(await restarts.start(0, 1, 2), 200)
    shutil.rmtree(restarts.folder(0))
    after = await restarts.start(0, 1, 2)
    await swarm.done(after)
    assert final(after) == (STEPS, expected)
    assert not RESUMED.search(after[0].log)
    assert any(resumed(peer)["step"] >= 200 - 2 * EVERY for peer in after[1:] if RESUMED.search(peer.log))


async def test_a_first_peer_that_lost_its_disk_and_has_trained_anew_yields_to_one_that_has_not(
    swarm: TrainingSwarm,
) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000))
    before = await restarts.start(0, 1)
    await restarts.kill_all_after(before, 150)
    shutil.rmtree(restarts.folder(0))
    (first,) = await restarts.start(0)
    await swarm.trained([first], 5)
    began = last_step(first)
    state = ("--state-dir", str(restarts.folder(1)))
    keeper = await swarm.start(*restarts.options, *state, "--join", first.address)
    await swarm.until("the first has yielded", lambda: bool(first.past))
    await swarm.together([first, keeper])
    assert began < resumed(keeper)["step"] <= min(last_step(first), last_step(keeper))
    assert "from its checkpoint" in keeper.log


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
async def test_damaged_checkpoints_cost_a_warning_and_older_ones_are_used(swarm: TrainingSwarm, name: str) -> None:
    restarts = Restarts(swarm, small_job(swarm.folder, steps=STEPS), "--min-peers", "2")
    await restarts.kill_all_after(await restarts.start(0, 1), 250)
    steps = [manifest(restarts.newest(number))["step"] for number in (0, 1)]
    for number in (0, 1):
        file = restarts.newest(number) / name
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 4
        file.write_bytes(data)
    after = await restarts.start(0, 1)
    await swarm.done(after)
    assert all(peer.log.count("a checkpoint is damaged") == 1 for peer in after)
    told = [resumed(peer)["step"] for peer in after if RESUMED.search(peer.log)]
    assert told
    assert max(steps) > told[0] >= max(steps) - 2 * EVERY


@pytest.mark.parametrize("peers", [1, 2, 4])
async def test_any_number_of_peers_goes_on_and_each_sample_of_the_pass_is_used_once(
    swarm: TrainingSwarm, peers: int
) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000), "--checkpoint-keep", "1000")
    before = await restarts.start(0, 1, 2)
    await restarts.kill_all_after(before, 150)
    after = await restarts.start(*range(peers), options=("--min-peers", str(peers)))
    await swarm.trained(after, SAMPLES)
    for peer in after:
        await swarm.stop(peer)
    checkpoint = next(resumed_from(peer) for peer in after if RESUMED.search(peer.log))
    cursor = Cursor.from_json(manifest(checkpoint)["meta"]["cursor"])
    weights = load_file(checkpoint / TENSORS)["param.weight"].flatten().tolist()
    assert count_passes(merged(after), start=cursor, tally=[-weight for weight in weights]) >= cursor.pass_number + 3


async def test_the_last_survivor_dies_and_the_others_come_back_with_it_to_where_it_was(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000))
    before = await restarts.start(0, 1, 2)
    await swarm.together(before)
    for peer in before[:2]:
        await swarm.kill(peer)
    survivor = before[2]
    await restarts.kill_all_after([survivor], last_step(survivor) + 5 * EVERY)
    after = await restarts.start(0, 1, 2)  # the first has an old checkpoint, and does not wait for anybody
    common = await swarm.together(after)
    numbers = resumed(after[2])
    assert last_step(survivor) - numbers["step"] <= 2 * EVERY
    assert common["step"] >= numbers["step"]


async def test_a_training_that_was_complete_is_complete_after_a_restart(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, small_job(swarm.folder, steps=100))
    before = await restarts.start(0, 1)
    await swarm.done(before)
    done = final(before)
    for peer in before:
        await swarm.stop(peer)
    after = await restarts.start(1, 0)
    await swarm.done(after)
    assert final(after) == done


async def test_a_peer_that_is_told_to_stop_loses_nothing(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000))
    (before,) = await restarts.start(0)
    async with connect(before.address) as client:
        events = client.events()
        written = await anext(event async for event in events if event.kind == "checkpoint")
    assert written.values["step"] % EVERY == 0
    assert written.values["bytes"] > 0
    told = (await status_of(before)).checkpoint
    assert told is not None
    assert (told.step % EVERY, told.failures) == (0, 0)
    assert told.size == written.values["bytes"]
    await swarm.stop(before)
    (after,) = await restarts.start(0)
    await swarm.trained([after], 3)
    numbers = resumed(after)
    assert (numbers["lost_steps"], numbers["lost_samples"]) == (0, 0)
    assert numbers["step"] - last_step(before) in (0, 1)


async def test_resume_never_begins_anew_and_a_path_is_taken_instead_of_the_newest(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000))
    (before,) = await restarts.start(0)
    await restarts.kill_all_after([before], 3 * EVERY + 5)
    oldest = min((restarts.folder(0) / "checkpoints").glob("checkpoint-*"))
    step = manifest(oldest)["step"]
    aside = shutil.copytree(oldest, swarm.folder / "aside")
    never = await swarm.start(*restarts.options, "--resume", "never", "--state-dir", str(restarts.folder(0)))
    await swarm.trained([never], 3)
    assert not RESUMED.search(never.log)
    assert never.rounds[3]["step"] <= 3
    await swarm.kill(never)
    named = await swarm.start(*restarts.options, "--resume", str(aside), "--state-dir", str(restarts.folder(0)))
    await swarm.trained([named], 3)
    assert (resumed(named)["step"], named.rounds[3]["step"] - step) in ((step, 1), (step, 2))


async def test_gossiping_peers_go_on_from_what_one_of_them_held(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, gossiping_digits(swarm.folder, passes=40), "--min-peers", "3", env={"PACE": "0.004"})
    before = await restarts.start(0, 1, 2)
    await swarm.until("some is done", lambda: all(peer.steps and peer.steps[-1]["pass"] >= 14 for peer in before))
    for peer in before:
        peer.signal(9)
    await swarm.until("all are dead", lambda: not any(peer.running for peer in before))
    samples = max(manifest(restarts.newest(number))["samples"] for number in (1, 2))
    shutil.rmtree(restarts.folder(0))
    after = await restarts.start(0, 1, 2)
    await swarm.done(after)
    # Another may have founded for a moment, with less: it has no say beside this one.
    founder = max((peer for peer in after if RESUMED.search(peer.log)), key=lambda peer: resumed(peer)["samples"])
    assert founder is not after[0], "the one without a disk yields"
    assert resumed(founder)["samples"] == samples
    assert founder.steps[0]["samples"] >= samples
    accuracies = {peer.rounds[peer.last_round]["metrics"]["accuracy"] for peer in after}
    assert len(accuracies) == 1
    assert accuracies.pop() >= 0.95


async def test_a_state_directory_belongs_to_one_peer(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, tally_job(swarm.folder, steps=1_000_000))
    (first,) = await restarts.start(0)
    refused = await swarm.command("--listen", "127.0.0.1:0", "--state-dir", str(restarts.folder(0)))
    assert refused.status == 2
    assert "is used by another peer" in refused.error_line
    await swarm.trained([first], 2)


async def test_a_checkpoint_of_another_job_is_refused_by_name_and_not_seen_otherwise(swarm: TrainingSwarm) -> None:
    restarts = Restarts(swarm, small_job(swarm.folder, steps=100))
    (before,) = await restarts.start(0)
    await swarm.done([before])
    await swarm.stop(before)
    other = small_job(swarm.folder, steps=60, name="other")
    listen = ("--listen", "127.0.0.1:0")
    refused = await swarm.command(*listen, "--job", str(other), "--resume", str(restarts.newest(0)))
    assert refused.status == 15
    assert "is of job" in refused.error_line
    nothing = await swarm.command(*listen, "--job", str(other), "--resume", str(swarm.folder))
    assert nothing.status == 2
    assert "there is no checkpoint" in nothing.error_line
    fresh = await swarm.start("--job", str(other), "--state-dir", str(restarts.folder(0)))
    await swarm.done([fresh])
    assert not RESUMED.search(fresh.log)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", kib=512) as disk:
        yield disk


async def test_a_full_disk_does_not_stop_the_training_and_is_written_to_again_when_there_is_room(
    swarm: TrainingSwarm, small_disk: Path
) -> None:
    state = ("--state-dir", str(small_disk / "state"), "--checkpoint-every", "20", "--checkpoint-keep", "1")
    peer = await swarm.start("--job", str(tally_job(swarm.folder, steps=1_000_000)), *state)
    async with connect(peer.address) as client:
        events = client.events()
        written = await anext(event async for event in events if event.kind == "checkpoint")
        ballast = small_disk / "ballast"
        fill(ballast)
        await swarm.trained([peer], 100)
        told = (await status_of(peer)).checkpoint
        assert told is not None
        assert told.failures > 0
        assert told.size == written.values["bytes"], "the last one that could be written"
        assert peer.log.count("a checkpoint could not be written") == 1
        ballast.unlink()
        later = await anext(
            event async for event in events if event.kind == "checkpoint" and event.values["step"] > told.step + 60
        )
    assert peer.log.count("checkpoints can be written again") == 1
    await swarm.kill(peer)
    (again,) = [await swarm.start("--job", str(swarm.folder / "train.py"), *state)]
    await swarm.trained([again], 3)
    assert resumed(again)["step"] >= later.values["step"]


async def test_a_job_that_was_submitted_goes_on_without_being_submitted_again(swarm: TrainingSwarm) -> None:
    folders = [("--state-dir", str(swarm.folder / f"submitted{number}")) for number in range(2)]
    every = ("--checkpoint-every", "20")
    first = await swarm.start(*every, *folders[0])
    second = await swarm.start(*every, *folders[1], "--join", first.address)
    submitted = await swarm.command("submit", first.address, str(small_job(swarm.folder, steps=100_000)))
    assert submitted.status == 0
    await swarm.trained([first, second], 100)
    for peer in (first, second):
        peer.signal(9)
    await swarm.until("both are dead", lambda: not first.running and not second.running)
    again = await swarm.start(*every, *folders[0])
    joined = await swarm.start(*every, *folders[1], "--join", again.address)
    await swarm.together([again, joined])
    assert "going on with the job that was trained here last" in again.log
    assert resumed(again)["step"] >= 40

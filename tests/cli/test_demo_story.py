"""The demo's story, told with scripted peers instead of processes: what it does, waits for, and refuses to believe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from cli_samples import a_member, a_status

from lepton_p2p.cli.demo import observer as observer_module
from lepton_p2p.cli.demo.command import GOSSIP_PASSES, demo_job
from lepton_p2p.cli.demo.observer import Observer
from lepton_p2p.cli.demo.processes import DemoFailed, Nursery
from lepton_p2p.cli.demo.story import KILL_AT, Plan, Story
from lepton_p2p.jobs import Job
from lepton_p2p.transport.values import MemberStatus, Phase, StatusReport

PASSES = 120
DIGEST = "00ff00ff00ff00ff"


@dataclass
class Script:
    """A swarm in which everything happens as the demo wants it, a little more with every look at a peer.

    ``spoil`` changes a status before it is given: how a test makes something go wrong.
    """

    spoil: Callable[[StatusReport, int], StatusReport] = lambda status, number: status
    dies: int = 0
    started: dict[int, list[str]] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    submitted: list[str] = field(default_factory=list)
    looks: int = 0
    looks_since_kill: int = 0

    def alive(self) -> list[int]:
        return [number for number in self.started if number not in self.killed]

    def status(self, number: int) -> StatusReport:
        self.looks += 1
        members: list[MemberStatus] = [a_member(n) for n in self.alive()]
        if not self.submitted:
            return a_status(
                number, phase=Phase.IDLE, members=members, epoch=0, round=0, step=0, data_pass=0, metrics={}
            )
        step = self.looks
        done = bool(self.killed) and 5 in self.started and self.looks_since_kill > 100
        if self.killed:
            self.looks_since_kill += 1
        return a_status(
            number,
            phase=Phase.DONE if done else Phase.TRAINING,
            members=tuple(members),
            epoch=2 if self.killed else 1,
            round=step,
            step=step,
            data_pass=min(PASSES, step),
            rounds_done=step,
            rounds_retried=1,
            params_digest=DIGEST,
        )


@dataclass
class ScriptedProcess:
    name: str
    number: int
    script: Script

    @property
    def running(self) -> bool:
        return self.number not in self.script.killed and self.number != self.script.dies

    @property
    def popen(self) -> Any:
        return type("Popen", (), {"returncode": 23})

    def last_words(self, lines: int = 8) -> str:
        return json.dumps({"accuracy": 0.965}) if self.name == "alone" else "StateLost: the last member died"

    def kill(self) -> None:
        self.script.killed.add(self.number)

    async def listening(self, timeout: float) -> tuple[str, str]:
        return a_member(self.number).peer.id[:8], f"127.0.0.1:{7700 + self.number}"

    async def exited(self) -> int:
        return 0


class ScriptedNursery:
    def __init__(self, script: Script) -> None:
        self.script = script

    def spawn(self, name: str, module: str, arguments: list[str]) -> ScriptedProcess:
        assert (name, module) == ("alone", "lepton_p2p.cli.demo.alone")
        return ScriptedProcess(name, 0, self.script)

    def spawn_peer(self, name: str, *arguments: str) -> ScriptedProcess:
        number = int(name.removeprefix("peer"))
        self.script.started[number] = list(arguments)
        return ScriptedProcess(name, number, self.script)


@dataclass
class ScriptedClient:
    number: int
    script: Script

    async def __aenter__(self) -> ScriptedClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def status(self) -> StatusReport:
        return self.script.spoil(self.script.status(self.number), self.number)

    async def submit(self, job: Job) -> None:
        self.script.submitted.append(job.digest)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    found = Script()
    monkeypatch.setattr(observer_module, "connect", lambda address: ScriptedClient(int(address[-1]), found))
    return found


async def tell(script: Script, strategy: str = "all_reduce", patience: float = 5.0) -> tuple[Any, list[str]]:
    said: list[str] = []
    plan = Plan(demo_job(strategy), Path("alone.json"), peers=4, patience=patience)
    async with Observer(lambda peers: None, interval=0) as observer:
        story = Story(plan, cast("Nursery", ScriptedNursery(script)), observer, said.append)
        return await story.tell(), said


async def test_the_whole_story(script: Script) -> None:
    outcome, said = await tell(script)
    assert script.killed == {1}
    assert script.started == {
        1: ["--listen", "127.0.0.1:0"],
        **{number: ["--join", "127.0.0.1:7701"] for number in (2, 3, 4)},
        5: ["--join", "127.0.0.1:7702"],
    }
    assert script.submitted == [demo_job("all_reduce").digest]
    assert outcome.passed
    assert (outcome.accuracy_swarm, outcome.accuracy_alone) == (0.9625, 0.965)
    assert (outcome.rounds_retried, outcome.rounds_lost) == (1, 0)
    assert list(outcome.digests.values()) == [DIGEST] * 4
    assert any("killing peer 00000001 (the first, SIGKILL)" in line for line in said)
    assert any("the fresh peer trains with the others" in line for line in said)


async def test_a_fresh_peer_that_comes_when_all_is_over_is_not_said_to_train(script: Script) -> None:
    script.spoil = lambda status, number: replace(status, phase=Phase.DONE) if number == 5 else status
    outcome, said = await tell(script)
    assert outcome.passed
    assert any("when the training was over" in line for line in said)
    assert not any("the fresh peer trains" in line for line in said)


def test_gossip_has_more_passes_than_a_synchronous_swarm_needs_in_the_same_time() -> None:
    synchronous, gossip = (demo_job(name).schedule.passes for name in ("all_reduce", "gossip"))
    assert synchronous is not None
    assert gossip == GOSSIP_PASSES * synchronous


async def test_gossip_waits_for_steps_not_for_rounds(script: Script) -> None:
    script.spoil = lambda status, number: (
        replace(status, round=0, epoch=0) if status.phase is Phase.TRAINING else status
    )
    outcome, _ = await tell(script, "gossip")
    assert outcome.passed


async def test_the_first_peer_dies_only_when_all_are_in_the_middle(script: Script) -> None:
    seen: list[StatusReport] = []

    def note(status: StatusReport, number: int) -> StatusReport:
        if not script.killed:
            seen.append(status)
        return status

    script.spoil = note
    await tell(script)
    assert seen[-1].data_pass > KILL_AT * PASSES
    assert all(status.phase is Phase.TRAINING for status in seen[-4:])


async def test_a_differing_digest_is_in_the_outcome(script: Script) -> None:
    script.spoil = lambda status, number: replace(status, params_digest="1" * 16) if number == 5 else status
    outcome, _ = await tell(script)
    assert not outcome.passed
    assert outcome.to_dict()["failed"] == ["digest of survivors"]


async def test_a_peer_that_dies_by_itself_ends_the_story_with_its_last_words(script: Script) -> None:
    def die(status: StatusReport, number: int) -> StatusReport:
        script.dies = 3 if script.killed else 0
        return status

    script.spoil = die
    with pytest.raises(DemoFailed, match="peer3 ended with 23:\nStateLost: the last member died"):
        await tell(script)


async def test_a_job_that_ends_before_its_middle_is_seen_is_a_failure(script: Script) -> None:
    script.spoil = lambda status, number: replace(status, phase=Phase.DONE) if script.submitted else status
    with pytest.raises(DemoFailed, match="done before its middle was seen"):
        await tell(script)


@pytest.mark.parametrize(
    ("broken", "waited_for"),
    [
        (lambda status: replace(status, members=status.members[:2]), "all peers see each other"),
        (lambda status: replace(status, data_pass=1), "all peers are in the middle of the job"),
        (lambda status: replace(status, round=7), "the others go on without the killed peer"),
    ],
)
async def test_what_was_waited_for_in_vain_is_named(
    script: Script, broken: Callable[[StatusReport], StatusReport], waited_for: str
) -> None:
    script.spoil = lambda status, number: broken(status)
    with pytest.raises(DemoFailed, match=f"in vain until {waited_for}"):
        await tell(script, patience=0.3)

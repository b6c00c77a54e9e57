"""What a user may get wrong: one line on standard error that says what to do, a numbered exit code, no traceback."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_for_peers import SMALL, small_job, tally_job
from peer_processes import DEADLINE, TrainingSwarm

from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.server import ControlServer

SERVICES = [field.name for field in dataclasses.fields(Handlers)]
NOBODY: Any = object()
"""Behind a door that nothing gets past."""
NO_SUCH_HOST = "no-such-host.invalid:7700"
GOOD = SMALL.replace("STEPS", "10").replace("NAME", "good")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which connections are refused: taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def from_another_time(request: pytest.FixtureRequest) -> Any:
    """The address of a peer that speaks the protocol versions ``request.param``."""
    protocol, oldest = request.param
    async with ControlServer("127.0.0.1:0", swarm="lepton", hello=Hello("lepton", protocol, oldest)) as server:
        await server.bind()
        await server.start(Handlers(**dict.fromkeys(SERVICES, NOBODY)))
        yield server.address


def commands(address: str, folder: Path) -> list[tuple[str, ...]]:
    """Every way to call a peer."""
    return [
        ("status", address),
        ("submit", address, str(small_job(folder, steps=10))),
        ("export", address, "--to", str(folder / "model.safetensors")),
    ]


async def told(swarm: TrainingSwarm, argv: tuple[str, ...], code: int, *words: str) -> None:
    """``lepton-peer argv`` fails with ``code``, and its one line has all the ``words``."""
    ended = await swarm.command(*argv)
    assert ended.status == code, ended
    for word in words:
        assert word in ended.error_line
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--preset", "wann"), 2, ["--preset", "'wann'", "did you mean 'wan'?"]),
        (("--listen", "nowhere"), 2, ["--listen", "'nowhere'", "HOST:PORT"]),
        (("--listen", "127.0.0.1:70000"), 2, ["--listen", "70000", "HOST:PORT"]),
        (("--listen", "no-such-host.invalid:0", "--insecure"), 10, ["no-such-host.invalid", "does not resolve"]),
        (("--listen", "192.0.2.1:0", "--insecure"), 10, ["192.0.2.1:0", "choose another --listen"]),
        (("--listen", "0.0.0.0:0"), 17, ["0.0.0.0", "--insecure"]),
        (("--swarm", "not/a name"), 2, ["--swarm"]),
        (("--data-port", "70000"), 2, ["--data-port", "70000"]),
        (("--swim", "probe_intervl=1"), 2, ["--swim", "did you mean 'probe_interval'?"]),
        (("--listen", "127.0.0.1:0", "--join", NO_SUCH_HOST), 10, ["no-such-host.invalid", "does not resolve"]),
        (("--config", "missing.toml"), 2, ["missing.toml", "No such file"]),
        (("--job", "missing.toml"), 3, ["missing.toml", "No such file"]),
        (("--job", "missing.py"), 3, ["missing.py", "No such file"]),
        (("status", NO_SUCH_HOST), 10, ["no-such-host.invalid", "does not resolve"]),
        (("export", NO_SUCH_HOST, "--to", "m.safetensors"), 10, ["no-such-host.invalid", "does not resolve"]),
        (("status", "nowhere"), 10, ["'nowhere'", "HOST:PORT"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_options(swarm: TrainingSwarm, argv: tuple[str, ...], code: int, words: list[str]) -> None:
    await told(swarm, argv, code, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("listn = '127.0.0.1:0'", ["unknown key 'listn'", "did you mean 'listen'?"]),
        ("[lepton]\npreset = 'wann'", ["preset", "did you mean 'wan'?"]),
        ("[lepton]\nexit_when_done = 3.5", ["exit_when_done"]),
        ("listen = ", ["is not TOML"]),
    ],
)
async def test_option_files(swarm: TrainingSwarm, content: str, words: list[str]) -> None:
    file = swarm.folder / "peer.toml"
    file.write_text(content)
    await told(swarm, ("--config", str(file)), 2, "peer.toml", *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size = 8", 'batch_size = "eight"', ["batch_size", "'eight'"]),
        ("batch_size = 8", "batch_size = 0", ["batch_size"]),
        ('name = "mlp"', 'name = "mpl"', ["model", "'mpl'", "'mlp'"]),
        ('name = "adamw"', 'name = "adamm"', ["optimizer", "'adamm'", "'adam"]),
        ('"synthetic_classification"', '"sinthetic_classification"', ["data", "'synthetic_classification'"]),
        ("sizes = ", "size = ", ["model.size", "did you mean 'sizes'?"]),
        ("batch_size = ", "batch_sise = ", ["batch_sise", "did you mean 'batch_size'?"]),
        ("steps = 10", "stepps = 10", ["schedule.stepps", "did you mean 'steps'?"]),
        ("steps = 10", "", ["schedule", "steps"]),
        ("[model]", "[model", ["TOML"]),
        ("seed = 5", 'seed = 5\nstrategy = "gosip"', ["strategy", "'gosip'", "'gossip'"]),
    ],
)
async def test_job_files(swarm: TrainingSwarm, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    file = swarm.folder / "job.toml"
    file.write_text(GOOD.replace(old, new))
    await told(swarm, ("--job", str(file)), 3, "job.toml", *words)


async def test_job_files_that_are_no_text(swarm: TrainingSwarm) -> None:
    file = swarm.folder / "job.toml"
    file.write_bytes(bytes(range(256)))
    await told(swarm, ("--job", str(file)), 3, "job.toml", "cannot be read")
    await told(swarm, ("--job", str(swarm.folder)), 3, str(swarm.folder), "cannot be read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", ["has no function build()"]),
        ("def build():\n    return 1", ["build() returned int"]),
        ("def build():\n    raise ValueError('no data')", ["train.py:2", "ValueError: no data"]),
        ("def build(:", ["train.py", "SyntaxError"]),
    ],
)
async def test_job_files_in_python(swarm: TrainingSwarm, content: str, words: list[str]) -> None:
    file = swarm.folder / "train.py"
    file.write_text(content)
    await told(swarm, ("--job", str(file)), 3, "train.py", *words)


async def test_nobody_answers(swarm: TrainingSwarm, closed_port: str) -> None:
    for argv in commands(closed_port, swarm.folder):
        await told(swarm, argv, 12, f"nobody answers at {closed_port}", "connection refused")


async def test_another_swarm(swarm: TrainingSwarm) -> None:
    peer = await swarm.start("--swarm", "mine")
    words = (peer.address, "'mine'", "'other'")
    for argv in commands(peer.address, swarm.folder):
        await told(swarm, (*argv, "--swarm", "other"), 13, *words)
    await told(swarm, ("--listen", "127.0.0.1:0", "--join", peer.address, "--swarm", "other"), 13, *words)
    assert (await swarm.command("status", peer.address, "--swarm", "mine")).status == 0, "the peer is unimpressed"


@pytest.mark.parametrize("from_another_time", [(0, 0), (9, 9)], indirect=True, ids=["old", "new"])
async def test_another_protocol_version(swarm: TrainingSwarm, from_another_time: str) -> None:
    for argv in commands(from_another_time, swarm.folder):
        await told(swarm, argv, 14, from_another_time, "protocol", "upgrade lepton_p2p")
    await told(swarm, ("--listen", "127.0.0.1:0", "--join", from_another_time), 14, "upgrade lepton_p2p")


async def test_a_port_that_is_taken(swarm: TrainingSwarm) -> None:
    peer = await swarm.start()
    await told(swarm, ("--listen", peer.address), 11, f"{peer.address} is in use", "choose another")
    taken = peer.address.rpartition(":")[2]
    await told(swarm, ("--listen", "127.0.0.1:0", "--data-port", taken), 11, taken, "in use")


async def test_another_job_than_the_swarm_trains(swarm: TrainingSwarm) -> None:
    peer = await swarm.start("--job", str(tally_job(swarm.folder, steps=1_000_000)))
    other = str(small_job(swarm.folder, steps=10))
    join = ("--listen", "127.0.0.1:0", "--join", peer.address, "--job", other)
    await told(swarm, join, 15, "runs job train", "this peer was given small", "without --job")
    await swarm.trained([peer], 5)


async def test_a_model_with_other_parameters_than_the_swarm_s(swarm: TrainingSwarm) -> None:
    """The same file that builds something else on another machine: only the tensors tell."""
    file = tally_job(swarm.folder, steps=1_000_000)
    odd = file.read_text().replace("bias=False)", "bias='ODD' in os.environ)")
    assert "ODD" in odd
    file.write_text(odd)
    first = await swarm.start("--job", str(file))
    second = await swarm.start("--job", str(file), "--join", first.address)
    await swarm.together([first, second])
    join = ("--listen", "127.0.0.1:0", "--join", first.address, "--job", str(file), "--log-level", "error")
    ended = await swarm.command(*join, env={"ODD": "1"})
    assert ended.status == 16, ended
    assert "tensors or operation differ" in ended.error_line
    await swarm.trained([first, second], 20)


async def test_the_installed_script_says_and_exits_the_same(closed_port: str) -> None:
    script = Path(sys.executable).with_name("lepton-peer")
    process = await asyncio.create_subprocess_exec(
        str(script), "status", closed_port, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        out, errors = await process.communicate()
    assert (process.returncode, out) == (12, b"")
    assert re.fullmatch(rb"lepton-peer: nobody answers at [^\n]+\n", errors)

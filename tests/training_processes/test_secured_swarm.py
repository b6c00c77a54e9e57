"""Real peers in a swarm with credentials: who has a token joins and trains, who has none gets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from jobs_for_peers import small_job, tally_job
from peer_processes import DEADLINE, Finished, PeerProcess, TrainingSwarm

from lepton_p2p.client import connect
from lepton_p2p.credentials.certificates import make_invite, now
from lepton_p2p.credentials.enrolment import write_request
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.credentials.tokens import read_token, write_token
from lepton_p2p.errors import ConfigError, CredentialsRefused, InsecureRefused, Revoked, SwarmUnreachable, WrongSwarm
from lepton_p2p.runtime.node_credentials import ENROLMENTS
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.security import Security

EVERYWHERE = ("--listen", "0.0.0.0:0", "--advertise", "127.0.0.1")
"""An address that strangers can reach, on a machine that has one; peers call each other on loopback here."""


class Secured:
    """A swarm with credentials of its own, whose authority is in ``keys``."""

    def __init__(self, swarm: TrainingSwarm, name: str = "keys") -> None:
        self.swarm = swarm
        self.keys = KeysFolder(swarm.folder / name)
        self.keys.init("lepton", "first")

    def token(self, *, hours: float = 1.0, ago: float = 0.0, issuer: bool = False) -> str:
        """A token that was made ``ago`` hours ago and is good for ``hours``."""
        at = now() - timedelta(hours=ago)
        return write_token(make_invite(self.keys.issuer(), hours=hours, may_issue=issuer, at=at))

    async def first(self, *argv: str) -> PeerProcess:
        return await self.swarm.start("--keys", str(self.keys.path), *EVERYWHERE, *argv)

    async def joins(self, seed: PeerProcess, *argv: str, token: str | None = None) -> PeerProcess:
        """A machine with a token of this swarm."""
        env = {"LEPTON_TOKEN": token or self.token()}
        return await self.swarm.start("--join", seed.address, *EVERYWHERE, *argv, env=env)

    async def command(self, *argv: str, env: Mapping[str, str] | None = None) -> Finished:
        return await self.swarm.command(*argv, env=env)


@pytest.fixture
def secured(swarm: TrainingSwarm) -> Secured:
    return Secured(swarm)


async def has_token_in(file: Path, token: str) -> str:
    await asyncio.to_thread(file.write_text, token + "\n")
    return str(file)


def endless(swarm: TrainingSwarm) -> tuple[str, str]:
    file = swarm.folder / "train.py"  # written once: peers read it while others are started
    return "--job", str(file if file.exists() else tally_job(swarm.folder, steps=1_000_000))


async def test_peers_with_tokens_train_and_all_hold_the_same(secured: Secured) -> None:
    swarm = secured.swarm
    first = await secured.first("--job", str(small_job(swarm.folder, steps=150)))
    others = [await secured.joins(first), await secured.joins(first, "--state-dir", str(swarm.folder / "third"))]
    await swarm.done([first, *others])
    for peer in swarm.peers:
        assert peer.final is not None
        assert peer.final["step"] == 150
    model = str(swarm.folder / "model.safetensors")
    exported = await secured.command("export", first.address, "--keys", str(swarm.folder / "third/keys"), "--to", model)
    assert exported.status == 0, exported


async def test_without_a_token_there_is_nothing_to_be_had(secured: Secured) -> None:
    first = await secured.first(*endless(secured.swarm))
    one_line = "has credentials: join with a token"
    for argv in (
        ("--listen", "127.0.0.1:0", "--join", first.address),
        ("--listen", "0.0.0.0:0", "--insecure", "--join", first.address),
        ("status", first.address),
        ("export", first.address, "--to", str(secured.swarm.folder / "stolen")),
        ("submit", first.address, str(small_job(secured.swarm.folder, steps=10))),
    ):
        ended = await secured.command(*argv)
        assert ended.status == CredentialsRefused.exit_code, ended
        assert one_line in ended.error_line
    assert not (secured.swarm.folder / "stolen").exists()
    healthy = await secured.command("health", first.address)
    assert healthy.status == 1, "not even health"
    await secured.swarm.trained([first], 5)


async def test_an_address_that_strangers_reach_needs_credentials(swarm: TrainingSwarm) -> None:
    ended = await swarm.command("--listen", "0.0.0.0:0")
    assert ended.status == InsecureRefused.exit_code
    assert "keys init" in ended.error_line


async def test_the_next_start_needs_no_token_and_an_old_one_does_no_harm(secured: Secured) -> None:
    swarm, state = secured.swarm, str(secured.swarm.folder / "state")
    first = await secured.first(*endless(swarm))
    before = await secured.joins(first, "--state-dir", state, *endless(swarm))
    await swarm.together([first, before])
    await swarm.stop(before)
    after = await swarm.start("--join", first.address, *EVERYWHERE, "--state-dir", state, *endless(swarm))
    await swarm.together([first, after])
    assert after.id != before.id, "an id never comes back"
    await swarm.stop(after)
    expired = secured.token(hours=1, ago=2)
    again = await secured.joins(first, "--state-dir", state, *endless(swarm), token=expired)
    await swarm.together([first, again])


async def test_a_bad_token_ends_the_joiner_with_one_line(secured: Secured) -> None:
    first = await secured.first(*endless(secured.swarm))
    foreign = Secured(secured.swarm, "foreign")
    whole = secured.token()
    other_name = KeysFolder(secured.swarm.folder / "named")
    other_name.init("digits", "x")
    named = write_token(make_invite(other_name.issuer(), hours=1, may_issue=False))
    join = ("--listen", "127.0.0.1:0", "--join", first.address)
    for token, code, words in (
        (secured.token(hours=1, ago=2), CredentialsRefused, "the invite certificate has expired on"),
        (secured.token(hours=3, ago=-2), CredentialsRefused, "is a clock wrong?"),
        (foreign.token(), CredentialsRefused, "another swarm: these credentials are of swarm 'lepton' with another"),
        (named, WrongSwarm, "use --swarm digits"),
        (whole[:-9], ConfigError, "damaged"),
        ("swordfish-and-other-words", ConfigError, "keys invite"),
    ):
        ended = await secured.command(*join, env={"LEPTON_TOKEN": token})
        assert ended.status == code.exit_code, ended
        assert words in ended.error_line
        assert token[8:] not in ended.errors
    alone = await secured.command("--listen", "127.0.0.1:0", env={"LEPTON_TOKEN": whole})
    assert alone.status == ConfigError.exit_code
    assert "--join" in alone.error_line


async def test_a_token_is_seen_in_no_log_and_no_list_of_processes(secured: Secured) -> None:
    swarm, token = secured.swarm, secured.token()
    file = await has_token_in(swarm.folder / "token", token)
    first = await secured.first("--log-level", "debug", *endless(swarm))
    by_file = await swarm.start(
        "--join", first.address, *EVERYWHERE, "--log-level", "debug", "--token-file", file, *endless(swarm)
    )
    by_environment = await secured.joins(first, "--log-level", "debug", *endless(swarm), token=token)
    careless = await swarm.start("--join", first.address, *EVERYWHERE, "--token", token, *endless(swarm))
    await swarm.together([first, by_file, by_environment, careless])
    secret = token[-40:], token[8:60]
    for peer in swarm.peers:
        said = peer.log + "\n".join(peer.lines)
        assert not any(part in said for part in secret), peer.name
        assert not any(part in " ".join(psutil.Process(peer.pid).cmdline()) for part in secret)
        assert ("can read --token in the list of processes" in said) == (peer is careless)


async def test_a_peer_that_is_revoked_ends_and_stays_out_and_the_others_go_on(secured: Secured) -> None:
    swarm, state = secured.swarm, str(secured.swarm.folder / "state")
    first = await secured.first(*endless(swarm))
    second = await secured.joins(first, "--state-dir", str(swarm.folder / "second"), *endless(swarm))
    third = await secured.joins(first, "--state-dir", state, *endless(swarm))
    await swarm.together([first, second, third])
    async with connect(first.address, keys=secured.keys.path, timeout=DEADLINE) as client:
        node = next(member.node for member in await client.members() if member.peer.id.startswith(third.id))
    assert node == KeysFolder(swarm.folder / "state" / "keys").node().id
    revoke = ("keys", "revoke", node, "--keys", str(secured.keys.path), "--reason", "laptop stolen")
    swarm.peers.remove(third)  # that it ends is no failure
    told = await secured.command(*revoke, "--at", second.address)
    assert told.status == 0, told
    await swarm.until("the revoked peer has ended", lambda: not third.running)
    assert third.status == Revoked.exit_code
    assert "this machine's credentials are revoked: laptop stolen" in third.log
    await swarm.together([first, second])
    for peer in (first, second):
        assert "why='its node was revoked: laptop stolen'" in peer.log
    again = await secured.command("--listen", "127.0.0.1:0", "--join", first.address, "--state-dir", state)
    assert again.status == Revoked.exit_code, again
    looking = await secured.command("status", first.address, "--keys", f"{state}/keys")
    assert looking.status == Revoked.exit_code, looking

    # It is remembered on disk, also by one that only heard of it.
    await swarm.stop(second)
    await swarm.stop(first)
    back = await swarm.start(
        *EVERYWHERE, "--state-dir", str(swarm.folder / "second"), "--join", first.address, *endless(swarm)
    )
    refused = await secured.command("status", back.address, "--keys", f"{state}/keys")
    assert refused.status == Revoked.exit_code, refused


async def test_a_member_that_may_not_certify_names_one_that_may(secured: Secured) -> None:
    swarm = secured.swarm
    first = await secured.first(*endless(swarm))
    member = await secured.joins(first, *endless(swarm))
    await swarm.together([first, member])
    third = await secured.joins(member, *endless(swarm))
    await swarm.together([first, member, third])


async def test_a_member_renews_its_certificate_with_an_issuer(secured: Secured) -> None:
    swarm, state = secured.swarm, secured.swarm.folder / "state"
    first = await secured.first(*endless(swarm))
    member = await secured.joins(first, "--state-dir", str(state), *endless(swarm))
    await swarm.together([first, member])
    folder = KeysFolder(state / "keys")
    before = folder.node()
    refused = await secured.command("keys", "renew", member.address, "--keys", str(folder.path))
    assert refused.status == CredentialsRefused.exit_code, refused
    assert f"may not certify: ask one of {first.address}" in refused.error_line
    renewed = await secured.command("keys", "renew", first.address, "--keys", str(folder.path))
    assert renewed.status == 0, renewed
    after = folder.valid_node()[0]
    assert after.id == before.id
    assert after.certificate.serial_number != before.certificate.serial_number
    await swarm.trained([first, member], 5)


async def test_an_issuer_lets_machines_in_when_the_first_peer_is_gone(secured: Secured) -> None:
    swarm = secured.swarm
    first = await secured.first(*endless(swarm))
    issuer = await secured.joins(first, *endless(swarm), token=secured.token(issuer=True))
    await swarm.together([first, issuer])
    await swarm.kill(first)
    third = await secured.joins(issuer, *endless(swarm))
    await swarm.together([issuer, third])


async def test_two_swarms_on_one_machine_keep_to_themselves(secured: Secured) -> None:
    swarm, other = secured.swarm, Secured(secured.swarm, "other")
    here = await secured.first(*endless(swarm))
    there = await other.first(*endless(swarm))
    lost = await secured.command("--listen", "127.0.0.1:0", "--join", there.address, "--keys", str(secured.keys.path))
    assert lost.status == CredentialsRefused.exit_code, lost
    assert "another swarm" in lost.error_line
    mine = await secured.joins(here, *endless(swarm))
    theirs = await other.joins(there, *endless(swarm))
    await swarm.together([here, mine])
    await swarm.together([there, theirs])
    async with connect(here.address, keys=secured.keys.path, timeout=DEADLINE) as client:
        assert {member.peer.id[:8] for member in await client.members()} == {here.id, mine.id}


async def test_a_flood_of_machines_that_want_in_is_slowed_down_and_training_goes_on(secured: Secured) -> None:
    swarm = secured.swarm
    first = await secured.first(*endless(swarm))
    second = await secured.joins(first, *endless(swarm))
    await swarm.together([first, second])
    async with Channels(swarm="lepton", security=Security(read_token(secured.token()))) as channels:

        async def enrol() -> bool:
            try:
                await channels.enrol(first.address, write_request("lepton", "flood", new_key()), timeout=DEADLINE)
            except SwarmUnreachable as error:
                return "overloaded" not in str(error)
            return True

        granted = sum(await asyncio.gather(*(enrol() for _ in range(300))))
    assert 10 < granted <= ENROLMENTS + DEADLINE
    await swarm.trained([first, second], 20)
    assert len(list(secured.keys.issued())) == granted + 1
    await secured.joins(first, *endless(swarm))

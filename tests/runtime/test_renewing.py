"""A certificate that expires under a running peer: it is renewed in time; if not, the peer is warned and then ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import Holder, certify_node, make_process, now
from lepton_p2p.credentials.enrolment import grant, read_request
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.errors import CredentialsRefused, LeptonError, SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Rumour, Status, Verdict
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.renewing import EARLY, Renewing
from lepton_p2p.transport.wire_credentials import Enrolled

FAMILY = Family()
SECOND = 1 / 86_400
"""In days."""
ISSUER, MEMBER = (PeerInfo(PeerId(digit * 32), f"192.0.2.{digit}:7700") for digit in "12")


class Bench:
    """A peer whose node is ``node``, and what the others answer it; ``grants``: whether the issuer does."""

    def __init__(self, node: Holder, folder: Path | None = None) -> None:
        self.credentials = NodeCredentials(node, folder)
        self.grants = True
        self.issuer = FAMILY.issuer
        self.asked: list[str] = []
        self.was_asked, self.kept = asyncio.Event(), asyncio.Event()
        self._keep, self.credentials.keep = self.credentials.keep, self._kept  # type: ignore[method-assign]
        self.reconnected = 0
        self.failed: list[BaseException] = []
        self.members = [MEMBER, ISSUER]
        self.renewing = Renewing(self.credentials, ask=self._ask, members=lambda: self.members, renewed=self._reconnect)

    async def _ask(self, address: str, request: bytes) -> Enrolled:
        self.asked.append(address)
        self.was_asked.set()
        if address == MEMBER.address:
            return Enrolled((), (ISSUER.address,))
        if not self.grants:
            raise SwarmUnreachable("nobody answers at 192.0.2.1:7700")
        process = self.credentials.security.holder
        asker = read_bearer(process.chain, process.authority, now())
        return Enrolled(grant(self.issuer, asker, read_request(request)))

    async def _kept(self) -> None:
        try:
            await self._keep()
        finally:
            self.kept.set()

    async def _reconnect(self) -> None:
        self.reconnected += 1

    async def until_it_ends(self) -> list[dict[str, object]]:
        with capture_logs() as logs:
            async with asyncio.timeout(20):
                await self.renewing.run(self.failed.append)
        return [dict(row) for row in logs]

    async def until_it_is_renewed(self) -> list[dict[str, object]]:
        with capture_logs() as logs:
            running = asyncio.create_task(self.renewing.run(self.failed.append))
            async with asyncio.timeout(20):
                await self.kept.wait()
            running.cancel()
            await asyncio.wait((running,))
        assert not self.failed
        assert self.reconnected
        return [dict(row) for row in logs]


async def test_it_asks_a_member_in_the_last_third_of_its_life_and_goes_on_under_the_same_id(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path / "keys")
    key = folder.node_key()
    short = certify_node(FAMILY.issuer, key.public_key(), "laptop", may_issue=False, days=3 * SECOND)
    folder.store(Holder(key, short, FAMILY.authority.authority))
    bench = Bench(folder.node(), folder.path)
    before, id, word = bench.credentials.expires, bench.credentials.id, _alive(bench)
    await bench.until_it_is_renewed()
    assert bench.credentials.expires > before + EARLY
    assert bench.credentials.security.holder.id == bench.credentials.id == id
    assert bench.credentials.security.holder.certificate.not_valid_after_utc == bench.credentials.expires
    assert folder.node().certificate == bench.credentials.node.certificate, "kept for the next start"
    await asyncio.sleep(max(0.0, (before - now()).total_seconds()))
    assert bench.credentials.claims.judge_word(word) is Verdict.HOLDS, "what it said before holds"


def _alive(bench: Bench) -> Rumour:
    me = PeerInfo(bench.credentials.id, "127.0.0.1:7700")
    return bench.credentials.claims.sign(Rumour(me, Status.ALIVE, 0, me.id))


async def test_members_that_may_not_certify_name_those_that_may() -> None:
    bench = Bench(node_of(FAMILY.issuer, days=2 * SECOND))
    bench.members = [MEMBER]
    await bench.until_it_is_renewed()
    assert bench.asked == [MEMBER.address, ISSUER.address]


async def test_whom_it_knows_to_be_an_issuer_it_asks_first() -> None:
    bench = Bench(node_of(FAMILY.issuer, days=2 * SECOND))
    process = make_process(FAMILY.issuer)
    bench.credentials.security._callers[ISSUER.id] = read_bearer(process.chain, process.authority, now())
    object.__setattr__(bench.credentials.security._callers[ISSUER.id], "id", ISSUER.id)
    await bench.until_it_is_renewed()
    assert bench.asked == [ISSUER.address]


async def test_where_the_authoritys_key_is_nobody_is_asked(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path / "keys")
    folder.init("lepton", "first")
    key = folder.node_key()
    short = certify_node(folder.issuer(), key.public_key(), "first", may_issue=True, days=2 * SECOND)
    folder.store(Holder(key, short, folder.authority()))
    bench = Bench(folder.node(), folder.path)
    await bench.until_it_is_renewed()
    assert not bench.asked
    assert bench.credentials.node.depth == 3, "it may still certify issuers"


async def test_what_keys_renew_put_into_the_folder_is_taken_up(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path / "keys")
    key = folder.node_key()
    for days in (2 * SECOND, 100):
        chain = certify_node(FAMILY.issuer, key.public_key(), "laptop", may_issue=False, days=days)
        if days == 100:
            bench = Bench(folder.node(), folder.path)
        folder.store(Holder(key, chain, FAMILY.authority.authority))
    await bench.until_it_is_renewed()
    assert not bench.asked


async def test_one_that_nobody_renews_is_warned_with_the_reason_and_ends_when_it_has_expired() -> None:
    bench = Bench(node_of(FAMILY.issuer, days=4 * SECOND))
    bench.grants = False
    logs = await bench.until_it_ends()
    [error] = bench.failed
    assert isinstance(error, CredentialsRefused)
    assert "has expired" in str(error)
    assert not bench.reconnected
    warnings = [row for row in logs if row["log_level"] == "warning"]
    assert len(warnings) >= 2, "it is tried again and again"
    assert "keys renew" in str(warnings[0]["event"])
    assert "nobody answers" in str(warnings[0]["why"])


async def test_it_recovers_when_an_issuer_comes_back() -> None:
    bench = Bench(node_of(FAMILY.issuer, days=6 * SECOND))
    bench.grants = False
    waiting = asyncio.create_task(bench.until_it_is_renewed())
    await bench.was_asked.wait()
    bench.grants = True
    await waiting


@pytest.mark.parametrize("what", ["ends no later", "allows less", "is another's"])
async def test_an_answer_that_is_no_better_is_not_taken(what: str) -> None:
    node = node_of(FAMILY.authority, issues=True, days=2 * SECOND) if what == "allows less" else None
    bench = Bench(node or node_of(FAMILY.issuer, days=2 * SECOND))
    if what == "ends no later":
        bench.issuer = node_of(FAMILY.authority, issues=True, days=2 * SECOND)
    if what == "is another's":

        async def ask(address: str, request: bytes) -> Enrolled:
            return Enrolled(node_of(FAMILY.issuer).chain)

        bench.renewing._ask = ask
    logs = await bench.until_it_ends()
    assert bench.failed
    assert not bench.reconnected
    assert any(row["log_level"] == "warning" for row in logs)


async def test_one_that_is_valid_for_long_is_left_in_peace() -> None:
    bench = Bench(node_of(FAMILY.issuer, days=300))
    with capture_logs() as logs:
        running = asyncio.create_task(bench.renewing.run(bench.failed.append))
        await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        await asyncio.wait((running,))
    assert not logs
    assert not bench.asked


async def test_a_folder_that_takes_nothing_does_not_keep_it_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(node_of(FAMILY.issuer, days=2 * SECOND), tmp_path)

    def full(self: KeysFolder, node: Holder) -> None:
        raise LeptonError("no space left on device")

    monkeypatch.setattr(KeysFolder, "store", full)
    logs = await bench.until_it_is_renewed()
    assert any("in memory only" in str(row["event"]) and row["log_level"] == "warning" for row in logs)

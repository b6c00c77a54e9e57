"""How a starting peer comes by its credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import Bearer, read_bearer
from lepton_p2p.credentials.certificates import Holder, certify_node, make_invite, make_process, name_of, now
from lepton_p2p.credentials.enrolment import Request, grant
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.keys import id_of, new_key
from lepton_p2p.credentials.revocations import revoke
from lepton_p2p.credentials.tokens import write_token
from lepton_p2p.errors import ConfigError, CredentialsRefused, Revoked, WrongSwarm
from lepton_p2p.runtime import admission
from lepton_p2p.runtime.admission import Applicant, obtain
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.server import ControlServer
from lepton_p2p.transport.wire_credentials import Enrolled

FAMILY = Family()
AUTHORITY = FAMILY.authority.authority
DEADLINE = 20.0


class Office:
    """Answers requests as it is told to."""

    def __init__(self, answer: str = "grant", *, issuers: tuple[str, ...] = ()) -> None:
        self.answer, self.issuers = answer, issuers
        self.asked = 0

    async def enrol(self, request: Request, asker: Bearer) -> Enrolled:
        self.asked += 1
        match self.answer:
            case "grant":
                return Enrolled(grant(FAMILY.issuer, asker, request))
            case "another key":
                return Enrolled(node_of(FAMILY.issuer).chain)
            case "another swarm":
                return Enrolled(Family().member.chain)
            case "refuse":
                raise CredentialsRefused("not you")
        return Enrolled((), self.issuers)

    async def exchange(self, statements: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return ()


@asynccontextmanager
async def issuing(office: Office, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    async with ControlServer(listen, swarm="lepton", security=Security(make_process(FAMILY.issuer))) as server:
        await server.bind()
        await server.start(Handlers(credentials=office))
        yield server.address


def token(*, seconds: float = 3600.0) -> str:
    return write_token(make_invite(FAMILY.issuer, hours=seconds / 3600, may_issue=False))


def applicant(*seeds: str, folder: Path | None = None, with_token: str | None = None) -> Applicant:
    return Applicant("lepton", folder, with_token, seeds, 5.0)


async def test_without_folder_and_token_there_are_no_credentials() -> None:
    assert await obtain(applicant(), needed=False) is None


async def test_a_folder_that_is_named_must_hold_some(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no credentials"):
        await obtain(applicant(folder=tmp_path), needed=True)
    assert await obtain(applicant(folder=tmp_path), needed=False) is None


async def test_a_token_gets_credentials_that_are_kept(tmp_path: Path) -> None:
    office = Office()
    async with issuing(office) as seed:
        found = await obtain(applicant(seed, folder=tmp_path, with_token=token()), needed=False)
        assert found is not None
        again = await obtain(applicant(seed, folder=tmp_path, with_token=token()), needed=False)
    assert again is not None
    assert again.id == found.id
    assert office.asked == 1
    assert KeysFolder(tmp_path).valid_node()[0].id == found.id


async def test_credentials_that_have_expired_are_replaced_if_there_is_a_token(tmp_path: Path) -> None:
    folder, then = KeysFolder(tmp_path), now() - timedelta(days=9)
    key = folder.node_key()
    old = certify_node(FAMILY.issuer, key.public_key(), "old", may_issue=False, at=then, days=1)
    folder.store(Holder(key, old, AUTHORITY))
    with pytest.raises(CredentialsRefused, match="expired"):
        await obtain(applicant(folder=tmp_path), needed=True)
    async with issuing(Office()) as seed:
        found = await obtain(applicant(seed, folder=tmp_path, with_token=token()), needed=True)
    assert found is not None
    assert found.key.private_numbers() == key.private_numbers()
    assert name_of(found.certificate) != "old"


async def test_one_that_may_not_certify_names_one_that_may() -> None:
    async with issuing(Office()) as issuer, issuing(Office("elsewhere", issuers=(issuer,))) as seed:
        assert await obtain(applicant(seed, with_token=token()), needed=False) is not None


async def test_an_issuer_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with issuing(Office()) as address:
        pass
    said: asyncio.Queue[str] = asyncio.Queue()
    log = SimpleNamespace(warning=lambda text, **_: said.put_nowait(text), info=lambda *_, **__: None)
    monkeypatch.setattr(admission, "_log", log)
    waiting = asyncio.create_task(obtain(applicant(address, with_token=token()), needed=False))
    async with asyncio.timeout(DEADLINE):
        assert "trying until the token expires" in await said.get()
        async with issuing(Office(), address):
            assert await waiting is not None
    assert said.empty(), "said once"


async def test_it_is_waited_for_until_the_token_expires() -> None:
    async with issuing(Office()) as address:
        pass
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(CredentialsRefused, match="expired"):
            await obtain(applicant(address, with_token=token(seconds=3)), needed=False)


@pytest.mark.parametrize("answer", ["refuse", "another key", "another swarm"])
async def test_a_refusal_and_a_wrong_certificate_end_the_joiner(answer: str, tmp_path: Path) -> None:
    async with issuing(Office(answer)) as seed:
        with pytest.raises(CredentialsRefused):
            await obtain(applicant(seed, folder=tmp_path, with_token=token()), needed=False)
    assert not KeysFolder(tmp_path).has_node


async def test_one_refusal_is_not_the_end_while_another_grants() -> None:
    async with issuing(Office("refuse")) as one, issuing(Office()) as other:
        assert await obtain(applicant(one, other, with_token=token()), needed=False) is not None


async def test_a_token_without_a_seed_and_one_of_another_swarm_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--join"):
        await obtain(applicant(with_token=token()), needed=False)
    other = write_token(make_invite(Family("other").issuer, hours=1, may_issue=False))
    with pytest.raises(WrongSwarm, match="use --swarm other"):
        await obtain(applicant("127.0.0.1:1", with_token=other), needed=False)


async def test_a_key_that_is_revoked_is_not_certified_again() -> None:
    issuer, key = NodeCredentials(FAMILY.issuer, None), new_key()
    invite = make_invite(FAMILY.issuer, hours=1, may_issue=False)
    asker = read_bearer(invite.chain, AUTHORITY, now())
    request = Request("lepton", "laptop", key.public_key())
    assert (await issuer.enrol(request, asker, list)).chain
    issuer.security.revocations.add([revoke(FAMILY.authority, None, id_of(key.public_key()), "stolen").encoded])
    with pytest.raises(Revoked, match="empty folder"):
        await issuer.enrol(request, asker, list)

"""Pulling a snapshot from several members at once, every chunk checked against the digest they agree on."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

import structlog

from lepton_p2p.collectives.fetch import Fetcher
from lepton_p2p.errors import IntegrityError, LeptonError, StateLost
from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.replication.donors import all_have_passed, donors
from lepton_p2p.runtime.manifests import from_wire
from lepton_p2p.runtime.node import Node
from lepton_p2p.training.assembler import Assembler
from lepton_p2p.training.manifest import Manifest
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema
from lepton_p2p.transport.links.link import Purpose

SNAPSHOT: Final = "snapshot"
"""The kind under which snapshots are described and served, by round."""

AGAIN: Final = 0.1
"""Seconds before members are asked again: those that are gone refuse at once, until the epoch goes on without them."""

_log = structlog.get_logger(__name__)


async def fetch_snapshot(node: Node, round: int, schema: Schema) -> Snapshot:
    """The state after ``round``, from the members that held it when this peer entered.

    Members take the snapshot when they apply the next round, and answer then.  Donors may die or lie: what they owe is
    fetched from the others.  Raises :class:`StateLost` when no member that can have it is left, and
    :class:`IntegrityError` when the donors disagree with no majority.
    """
    assembler: Assembler | None = None
    digest = b""
    distrusted: set[PeerId] = set()
    while True:
        asked = donors(node.rounds.epoch, round, exclude={node.me.id, *distrusted})
        if not asked:
            raise StateLost(f"no member that had the state after round {round} is left")
        late = all_have_passed(round, node.rounds.completed)
        described, refusals = await _describe(node, asked, round)
        if not described:
            if late and refusals == len(asked):
                raise StateLost(f"those that kept the state after round {round} are gone")
            await asyncio.sleep(AGAIN)
            continue
        manifest = _agreed(described)
        if assembler is None or manifest.digest != digest:
            assembler, digest = Assembler(manifest, schema), manifest.digest
        sources = [peer for peer, theirs in described if theirs.digest == digest]
        distrusted |= await _pull(node, sources, assembler)
        if assembler.complete:
            return await asyncio.to_thread(assembler.snapshot)
        await asyncio.sleep(AGAIN)


async def _describe(node: Node, asked: Sequence[PeerInfo], round: int) -> tuple[list[tuple[PeerInfo, Manifest]], int]:
    """Ask all at once; wait for the first answer, and then for a moment for those of the others.

    Returns the answers, and how many said that they do not keep it.
    """
    calls = {asyncio.create_task(_manifest(node, donor, round)): donor for donor in asked}
    try:
        done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        if pending and any(isinstance(task.result(), Manifest) for task in done):
            more, _ = await asyncio.wait(pending, timeout=node.options.call_timeout)
            done |= more
        elif pending:
            done |= (await asyncio.wait(pending))[0]
        answers = [(calls[task], task.result()) for task in done]
        described = [(donor, manifest) for donor, manifest in answers if isinstance(manifest, Manifest)]
        return described, sum(isinstance(answer, StateLost) for _, answer in answers)
    finally:
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _manifest(node: Node, donor: PeerInfo, round: int) -> Manifest | LeptonError:
    try:
        reply = await node.channels.manifest(donor, SNAPSHOT, round, timeout=4 * node.options.call_timeout)
        return from_wire(reply)
    except LeptonError as error:
        _log.info("a member cannot give the state (yet)", peer=short(donor.id), why=str(error))
        return error


def _agreed(described: Sequence[tuple[PeerInfo, Manifest]]) -> Manifest:
    """What more than half of the donors describe."""
    votes = Counter(manifest.digest for _, manifest in described)
    digest, count = votes.most_common(1)[0]
    if 2 * count <= len(described) and len(votes) > 1:
        who = ", ".join(f"{short(peer.id)} has {manifest.digest.hex()[:16]}" for peer, manifest in described)
        raise IntegrityError(f"the members do not agree on the state: {who}")
    if len(votes) > 1:
        odd = [short(peer.id) for peer, manifest in described if manifest.digest != digest]
        _log.warning("members describe another state than the majority and are not asked for it", peers=odd)
    return next(manifest for _, manifest in described if manifest.digest == digest)


async def _pull(node: Node, sources: Sequence[PeerInfo], assembler: Assembler) -> set[PeerId]:
    """Fetch what is missing from all ``sources`` in parallel; returns the ids of those that sent wrong bytes.

    Each source has a stripe of the chunks, so that all give and none is stampeded; who is done takes over from the
    longest stripe that is left.
    """
    missing = assembler.missing
    stripes = [deque(missing[number :: len(sources)]) for number in range(len(sources))]
    liars: set[PeerId] = set()
    async with asyncio.TaskGroup() as group:
        for source, stripe in zip(sources, stripes, strict=True):
            group.create_task(_pull_from(node, source, assembler, stripe, stripes, liars))
    return liars


async def _pull_from(
    node: Node,
    source: PeerInfo,
    assembler: Assembler,
    own: deque[int],
    stripes: Sequence[deque[int]],
    liars: set[PeerId],
) -> None:
    """Fetch chunks until none is left or ``source`` fails; a chunk that failed goes back to its stripe."""
    manifest, link = assembler.manifest, None
    try:
        link = await node.connect(source, Purpose.FETCH)
        fetcher = Fetcher(link)
        while stripe := own or max(stripes, key=len):
            index = stripe.popleft()
            try:
                offset, _ = manifest.span(index)
                await fetcher.fetch_range(SNAPSHOT, manifest.round, offset, assembler.buffer(index))
                await asyncio.to_thread(assembler.verify, index)
            except BaseException:
                stripe.append(index)
                raise
    except IntegrityError as error:
        liars.add(source.id)
        _log.warning("a member sent wrong bytes; fetching from the others", peer=short(source.id), why=str(error))
    except LeptonError as error:
        _log.warning("a donor is gone; fetching from the others", peer=short(source.id), why=str(error))
    finally:
        if link is not None:
            link.close()

"""The last known members on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_p2p.errors import ConfigError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.runtime.address_book import AddressBook

PEERS = (PeerInfo(PeerId("a" * 32), "10.0.0.1:7700"), PeerInfo(PeerId("b" * 32), "[::1]:7700"))


def test_what_was_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    AddressBook(tmp_path / "new" / "folder").save(reversed(PEERS))
    assert AddressBook(tmp_path / "new" / "folder").load() == PEERS


def test_nothing_is_known_at_first_and_without_a_folder(tmp_path: Path) -> None:
    assert AddressBook(tmp_path).load() == ()
    book = AddressBook(None)
    book.save(PEERS)
    assert book.load() == ()


def test_an_empty_view_does_not_wipe_what_was_known(tmp_path: Path) -> None:
    AddressBook(tmp_path).save(PEERS)
    AddressBook(tmp_path).save(())
    assert AddressBook(tmp_path).load() == PEERS


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"id": "x", "address": "h:1"}]', '[{"id": "%s"}]' % ("a" * 32)])
def test_a_damaged_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "members.json").write_text(text)
    assert AddressBook(tmp_path).load() == ()


def test_no_half_written_file_is_left_behind(tmp_path: Path) -> None:
    AddressBook(tmp_path).save(PEERS)
    assert [path.name for path in tmp_path.iterdir()] == ["members.json"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state directory"):
        AddressBook(tmp_path / "file" / "below")

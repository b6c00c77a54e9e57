"""What a log line looks like: one format for our own records and those of libraries, nothing secret in tracebacks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from lepton_p2p.logging import configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The test runner's own handlers come back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_hold_the_event_its_values_level_time_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("lepton_p2p.rounds").warning("peer lost", peer="3fa2", reason="link broke")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "peer lost",
        "peer": "3fa2",
        "reason": "link broke",
        "level": "warning",
        "logger": "lepton_p2p.rounds",
    }


def test_records_of_the_standard_library_come_in_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    logging.getLogger("some.library").warning("odd: %s", 7)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("odd: 7", "warning", "some.library")


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error")
    structlog.get_logger("x").warning("unheard")
    structlog.get_logger("x").error("heard")
    written = capsys.readouterr().err
    assert "unheard" not in written
    assert "heard" in written


@pytest.mark.parametrize("format", ["console", "json"])
def test_tracebacks_show_no_local_variables(capsys: pytest.CaptureFixture[str], format: str) -> None:
    configure_logging("info", "json" if format == "json" else "console")
    try:
        token = "s3cret-" + "value"
        raise RuntimeError(f"refused {len(token)}")
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    written = capsys.readouterr().err
    assert "RuntimeError" in written
    assert "s3cret-value" not in written


def test_grpc_stays_quiet_when_we_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug")
    logging.getLogger("grpc._cython").debug("chatter")
    assert capsys.readouterr().err == ""

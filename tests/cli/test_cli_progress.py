"""Progress where there is no terminal, and for programs."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from cli_samples import a_member, a_status
from rich.console import Console
from structlog.testing import capture_logs

from lepton_p2p.cli.progress import LINE_SECONDS, Lines, LivePanel, MetricsFile, follow, view_for
from lepton_p2p.errors import ConfigError
from lepton_p2p.transport.values import Phase, StatusReport


class TestLines:
    def setup_method(self) -> None:
        self.now = 100.0
        self.out = io.StringIO()
        self.lines = Lines(self.out, clock=lambda: self.now)

    def written(self) -> int:
        return len(self.out.getvalue().splitlines())

    def test_a_new_phase_epoch_or_member_is_said_at_once(self) -> None:
        for status in (
            a_status(),
            a_status(epoch=5),
            a_status(epoch=5, members=(a_member(1),)),
            a_status(epoch=5, members=(a_member(1),), phase=Phase.DONE),
        ):
            before = self.written()
            self.lines.show(status)
            assert self.written() == before + 1

    def test_steps_alone_are_said_now_and_then(self) -> None:
        self.lines.show(a_status(step=1))
        self.lines.show(a_status(step=2))
        assert self.written() == 1
        self.now += LINE_SECONDS
        self.lines.show(a_status(step=3))
        assert self.written() == 2
        self.lines.show(a_status(step=4))
        assert self.written() == 2

    def test_nothing_new_is_not_said_however_late_it_is(self) -> None:
        self.lines.show(a_status())
        self.now += 10 * LINE_SECONDS
        self.lines.show(a_status())
        assert self.written() == 1


def test_a_terminal_gets_a_panel_and_anything_else_lines() -> None:
    assert isinstance(view_for(Console(force_terminal=True, file=io.StringIO())), LivePanel)
    assert isinstance(view_for(Console(force_terminal=False, file=io.StringIO())), Lines)


def test_the_panel_is_drawn_and_leaves_the_terminal_in_order() -> None:
    out = io.StringIO()
    with view_for(Console(force_terminal=True, file=out, width=120)) as view:
        view.show(a_status())
    assert "119 done" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor is visible again


class TestMetricsFile:
    def test_has_a_json_object_per_change(self, tmp_path: Path) -> None:
        with MetricsFile(tmp_path / "m.jsonl") as file:
            for step in (1, 1, 2):
                file.show(a_status(step=step))
            file.show(a_status(step=2, phase=Phase.DONE))
        lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
        assert [(line["step"], line["phase"]) for line in lines] == [(1, "training"), (2, "training"), (2, "done")]
        assert all(line["time"] > 1e9 for line in lines)

    def test_goes_on_where_an_earlier_run_ended(self, tmp_path: Path) -> None:
        for step in (1, 2):
            with MetricsFile(tmp_path / "m.jsonl") as file:
                file.show(a_status(step=step))
        assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2

    def test_says_when_it_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"metrics file .* cannot be written: Is a directory"):
            MetricsFile(tmp_path).__enter__()

    def test_ends_with_one_warning_when_the_disk_is_full(self) -> None:
        with capture_logs() as logs, MetricsFile(Path("/dev/full")) as file:
            for step in range(3):
                file.show(a_status(step=step))
        assert [(entry["log_level"], entry["why"]) for entry in logs] == [("warning", "No space left on device")]


async def test_following_shows_every_look_until_cancelled() -> None:
    seen: list[int] = []
    enough = asyncio.Event()
    steps = iter(range(1000))

    async def status() -> StatusReport:
        return a_status(step=next(steps))

    def show(report: StatusReport) -> None:
        seen.append(report.step)
        if report.step == 3:
            enough.set()

    task = asyncio.create_task(follow(status, show, interval=0))
    await asyncio.wait_for(enough.wait(), 5)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert seen[:4] == [0, 1, 2, 3]

"""The demo on the screen: a live table with a terminal, plain lines without."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lepton_p2p.cli.demo.observer import Watched
from lepton_p2p.cli.views import loss_text, members_in_epoch, metrics_text
from lepton_p2p.identity import short
from lepton_p2p.transport.values import Phase

LINE_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


class Display:
    """Context manager; ``show`` draws the peers, ``say`` adds a line that stays."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._due = self._began + LINE_SECONDS
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Something happened."""
        self._console.print(
            f"{self._clock() - self._began:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def show(self, peers: Sequence[Watched]) -> None:
        """This is how the peers are now."""
        if self._live is not None:
            self._live.update(peers_table(peers))
        elif self._clock() >= self._due:
            self._due = self._clock() + LINE_SECONDS
            if line := peers_line(peers):
                self.say(line)


def peers_table(peers: Sequence[Watched]) -> Table:
    """A row for each peer, the killed one included."""
    table = Table()
    for title in ("peer", "address", "phase", "members", "epoch", "step", "loss", "samples/s", "test", "digest"):
        table.add_column(title, justify="right" if title in ("step", "loss", "samples/s") else "left", no_wrap=True)
    for peer in peers:
        status = peer.last
        if status is None:
            table.add_row("?", peer.address, "starting")
            continue
        table.add_row(
            short(status.peer.id),
            peer.address,
            "killed" if peer.killed else status.phase.value,
            str(members_in_epoch(status)),
            str(status.epoch),
            str(status.step),
            loss_text(status.loss),
            f"{status.samples_per_second:.0f}",
            Text(metrics_text(status.metrics) or "-"),
            Text(status.params_digest[:16] or "-"),
            style="red strike" if peer.killed else "bold green" if status.phase is Phase.DONE else "",
        )
    return table


def peers_line(peers: Sequence[Watched]) -> str:
    """The peers that live in one line ("" before any has answered): what differs between them as a range."""
    known = [peer.last for peer in peers if not peer.killed and peer.last is not None]
    if not known:
        return ""
    latest = max(known, key=lambda status: status.step)
    steps = sorted({status.step for status in known})
    parts = [
        f"{len(known)} peers",
        f"epoch {latest.epoch} with {members_in_epoch(latest)} members",
        f"step {steps[0]}" if len(steps) == 1 else f"step {steps[0]} to {steps[-1]}",
        f"loss {loss_text(latest.loss)}",
        f"{latest.samples_per_second:.0f} samples/s",
    ]
    return ", ".join(parts + ([f"test {metrics_text(latest.metrics)}"] if latest.metrics else []))

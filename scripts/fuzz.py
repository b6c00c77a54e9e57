#!/usr/bin/env python3
"""Fuzz everything that reads bytes from the network with atheris (libFuzzer, guided by coverage).

    python scripts/fuzz.py [--minutes 10] [--only links. messages.packet] [--corpus DIR] [--json FILE]

Every target of ``scripts/fuzzing`` runs in a process of its own for its share of the time, one after the other, and
keeps what reached new code in ``DIR/<target>``; a crash is shown with the file that repeats it, and the exit code is 1.
``--list`` names the targets, ``--repeat TARGET FILE`` runs one input.  Needs the extra ``fuzz``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
_MAX_BYTES = 8192
_HANGS = 20
"""Seconds for one input."""
_STATISTICS = {"runs": r"stat::number_of_executed_units: *(\d+)", "rss": r"stat::peak_rss_mb: *(\d+)"}
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")


def in_a_loop(run: Callable[[bytes], None], then: Callable[[Callable[[bytes], None]], None]) -> None:
    """``then(run)`` where an event loop runs: links want one, although nothing here is ever waited for."""

    async def inside() -> None:
        then(run)

    asyncio.run(inside())


def fuzz(name: str, arguments: list[str]) -> None:
    """The child process: does not return."""
    import atheris

    with atheris.instrument_imports(include=["lepton_p2p"]):
        from fuzzing.targets import TARGETS

    def then(run: Callable[[bytes], None]) -> None:
        atheris.Setup([name, *arguments], run)
        atheris.Fuzz()

    in_a_loop(TARGETS[name].run, then)


def one_target(name: str, seconds: int, corpus: Path) -> dict[str, Any]:
    """Run one target in a process of its own; what it printed is shown if it crashed."""
    from fuzzing.targets import TARGETS

    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", f"-timeout={_HANGS}", "-rss_limit_mb=4096"]
    where = [f"-artifact_prefix={corpus.parent}/crash-{name}-", "-print_final_stats=1", str(corpus)]
    started = time.monotonic()
    child = subprocess.run(
        [sys.executable, __file__, "--child", name, *limits, *where], capture_output=True, text=True, errors="replace"
    )
    found: dict[str, Any] = {"target": name, "seconds": round(time.monotonic() - started, 1), "crash": False}
    for what, pattern in _STATISTICS.items():
        match = re.search(pattern, child.stderr)
        found[what] = int(match[1]) if match else 0
    reached = _COVERAGE.findall(child.stderr)
    found["coverage"] = int(reached[-1][0]) if reached else 0
    if child.returncode:
        found["crash"] = True
        said = [line for line in child.stderr.splitlines() if not line.startswith("INFO: ")]
        print(child.stdout[-3000:], *said[-60:], sep="\n", file=sys.stderr)
    return found


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--only", nargs="+", default=[""], help="targets whose names begin so")
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from run to run")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--repeat", nargs=2, metavar=("TARGET", "FILE"), help="run one input and end")
    options = parser.parse_args()
    from fuzzing.targets import TARGETS

    if options.list:
        print("\n".join(TARGETS))
        return 0
    if options.repeat:
        name, file = options.repeat
        in_a_loop(TARGETS[name].run, lambda run: run(Path(file).read_bytes()))
        return 0
    names = [name for name in TARGETS if name.startswith(tuple(options.only))]
    if not names:
        parser.error(f"no target begins with {' or '.join(options.only)}; see --list")
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder)
        figures = []
        for name in names:
            figures.append(one_target(name, max(1, int(options.minutes * 60 / len(names))), corpus / name))
            shown = "{target:28} {runs:>10} runs, {coverage:>5} edges, {seconds:>5} s, {rss:>5} MiB"
            print(shown.format(**figures[-1]), "CRASH" if figures[-1]["crash"] else "", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    crashes = sum(figure["crash"] for figure in figures)
    print(f"{sum(figure['runs'] for figure in figures)} runs of {len(names)} targets, {crashes} crashed")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())

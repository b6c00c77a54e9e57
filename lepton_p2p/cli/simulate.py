"""``lepton-peer simulate``: try disasters by the thousand, in virtual time, and replay the one that broke a promise."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lepton_p2p.cli.exit_codes import INTERRUPTED, SIMULATION_FAILED, TERMINATED
from lepton_p2p.errors import ConfigError
from lepton_p2p.simulation.campaign import Tally, plans, run, sweep
from lepton_p2p.simulation.gossip_swarm import swarm_of
from lepton_p2p.simulation.mishaps import FAULTS
from lepton_p2p.simulation.plan import POLICIES, STRATEGIES, Outcome, Plan

_SHOWN = 20
"""Violations that are printed; all of them are in the JSON."""
_MOST_PEERS = 1000


def simulate(
    seeds: Annotated[int, typer.Option(help="How many seeds to try.", min=1)] = 1000,
    first: Annotated[int, typer.Option(help="The first of them.", min=0)] = 0,
    peers: Annotated[str, typer.Option(metavar="MIN..MAX", help="Peers that a swarm begins with.")] = "3..16",
    faults: Annotated[
        str, typer.Option(metavar="KINDS", help=f"What may go wrong, with commas: all, or of {', '.join(FAULTS)}.")
    ] = "all",
    storm: Annotated[float, typer.Option(help="Virtual seconds during which things go wrong.", min=1.0)] = 30.0,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help=f"One of {', '.join(STRATEGIES)}: every eighth swarm gossips.")
    ] = "both",
    partitions: Annotated[
        str, typer.Option(metavar="POLICY", help=f"One of {', '.join(POLICIES)}: majority in every eighth swarm.")
    ] = "both",
    seed: Annotated[int | None, typer.Option(help="Only this seed.", min=0)] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: tell what happens, line by line.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one per core.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run whole swarms on a virtual clock and network with random faults, and check every promise all the time.

    The machines are those that a peer runs. Each seed is one story: things go wrong, then the network heals for some of
    the peers, and these must be together again within a bound. Exits with 31 if an invariant was broken.
    """
    fewest, most = _range(peers)
    _check_choice("--strategy", strategy, STRATEGIES)
    _check_choice("--partitions", partitions, POLICIES)
    template = Plan(0, fewest, most, _kinds(faults), storm, strategy, partitions)
    if seed is not None:
        _one(template.of(seed), trace=trace, as_json=as_json)
        return
    if trace:
        raise ConfigError("--trace tells the story of one seed: add --seed N")
    began = time.monotonic()
    tally = _many(template, first, seeds, workers or os.cpu_count() or 1, quiet=as_json)
    seconds = time.monotonic() - began
    given = f"--peers {peers} --faults {faults} --storm {storm:g} --strategy {strategy} --partitions {partitions}"
    replay = f"lepton-peer simulate {given} --trace --seed"
    if as_json:
        typer.echo(json.dumps({**_table(tally), "seconds": seconds, "replay": replay}, indent=2))
    else:
        _print(tally, seconds, replay)
    if tally.violations:
        raise typer.Exit(SIMULATION_FAILED)


def _check_choice(option: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise ConfigError(f"{option} {given}: it is one of {', '.join(choices)}")


def _range(text: str) -> tuple[int, int]:
    low, dots, high = text.partition("..")
    if not low.isdigit() or not (high.isdigit() or not dots):
        raise ConfigError(f"--peers is MIN..MAX, for example 3..16, not {text!r}")
    fewest, most = int(low), int(high or low)
    if not 1 <= fewest <= most <= _MOST_PEERS:
        raise ConfigError(f"--peers {text}: there are 1 to {_MOST_PEERS} peers, the smaller number first")
    return fewest, most


def _kinds(text: str) -> frozenset[str]:
    """``all``, or names with commas; a name with a minus before it is left out."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    chosen: set[str] = set(FAULTS) if not words or words[0].startswith("-") else set()
    for word in words:
        name = word.removeprefix("-")
        if name not in FAULTS and name not in ("all", "none"):
            raise ConfigError(f"--faults: there is no kind {name!r}; it is all, none, or of {', '.join(FAULTS)}")
        named = set(FAULTS) if name == "all" else set() if name == "none" else {name}
        chosen = chosen - named if word.startswith("-") else chosen | named
    return frozenset(chosen)


def _one(plan: Plan, *, trace: bool, as_json: bool) -> None:
    def line(when: float, who: str, what: str) -> None:
        typer.echo(f"{when:10.4f}  {who:14} {what}", err=as_json)

    outcome = swarm_of(plan, line).run() if trace else run(plan)
    if as_json:
        typer.echo(json.dumps(_story(outcome), indent=2))
    elif outcome.violation:
        typer.echo(f"seed {plan.seed}: {outcome.violation}")
    else:
        done = f"{outcome.rounds} rounds, {outcome.retried} attempts more than needed"
        if outcome.gossips:
            done = f"{outcome.moved} shares changed hands, {outcome.returned} came back"
        typer.echo(
            f"seed {plan.seed}: all is well; {done}, "
            f"{outcome.simulated:.0f} s simulated, together again {outcome.recovery:.1f} s after the network healed"
        )
    if outcome.violation:
        raise typer.Exit(SIMULATION_FAILED)


def _many(template: Plan, first: int, count: int, workers: int, *, quiet: bool) -> Tally:
    # The first handlers (see ``cli.main``) know no clean-up: the workers must end before this process does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, _stop)
    tally = Tally()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("disasters", total=count)
        try:
            for outcome in sweep(plans(first, count, template), workers):
                tally.add(outcome)
                broken = f", {len(tally.violations)} broken" if tally.violations else ""
                progress.update(task, advance=1, description=f"disasters{broken}")
        except KeyboardInterrupt:
            console.print(f"stopped after {tally.seeds} of {count} seeds, {len(tally.violations)} of them broken")
            raise typer.Exit(INTERRUPTED) from None
        except _Stopped:
            raise typer.Exit(TERMINATED) from None
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])
    tally.violations.sort(key=lambda outcome: outcome.seed)
    return tally


class _Stopped(BaseException):
    """SIGTERM."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _table(tally: Tally) -> dict[str, Any]:
    recoveries = sorted(tally.recoveries)
    return {
        "seeds": tally.seeds,
        "seeds_per_cpu_minute": tally.seeds_per_cpu_minute,
        "cpu_seconds": tally.cpu,
        "simulated_hours": tally.simulated / 3600,
        "rounds": tally.rounds,
        "attempts_retried": tally.retried,
        "results_recovered": tally.recovered,
        "branches_united": tally.united,
        "branches_given_up": tally.abandoned,
        "branches_counted_high": tally.counted_high,
        "swarms_with_majority": tally.majorities,
        "swarms_that_wait_in_the_end": tally.waiting,
        "samples_used_twice": tally.doubled,
        **_gossip(tally),
        "events": tally.steps,
        "recovery_seconds": {
            "median": statistics.median(recoveries) if recoveries else None,
            "p99": recoveries[int(0.99 * (len(recoveries) - 1))] if recoveries else None,
            "max": recoveries[-1] if recoveries else None,
        },
        "faults": dict(sorted(tally.faults.items())),
        "violations": [{"seed": outcome.seed, "what": outcome.violation} for outcome in tally.violations],
    }


def _gossip(what: Tally | Outcome) -> dict[str, int]:
    return {
        "swarms_that_gossip": what.gossips,
        "shares_that_changed_hands": what.moved,
        "shares_that_came_back": what.returned,
        "weights_that_died": what.died,
        "weights_given_up": what.voided,
        "shares_lost_between_two": what.lost,
    }


def _story(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "violation": outcome.violation or None,
        "machines": outcome.peers,
        "simulated_seconds": outcome.simulated,
        "recovery_seconds": outcome.recovery,
        "rounds": outcome.rounds,
        "attempts_retried": outcome.retried,
        "results_recovered": outcome.recovered,
        "branches_united": outcome.united,
        "branches_given_up": outcome.abandoned,
        "waits_in_the_end": bool(outcome.waiting),
        "samples_used_twice": outcome.doubled,
        **_gossip(outcome),
        "events": outcome.steps,
        "faults": dict(sorted(outcome.faults.items())),
    }


def _print(tally: Tally, seconds: float, replay: str) -> None:
    table = _table(tally)
    typer.echo(
        f"{tally.seeds} seeds in {seconds:.1f} s, {tally.seeds / max(seconds, 1e-9):.1f} seeds/s "
        f"({tally.seeds_per_cpu_minute:.0f} per CPU-minute), {tally.simulated / 3600:.2f} hours simulated"
    )
    typer.echo(
        f"rounds decided: {tally.rounds}; attempts repeated: {tally.retried}; results recovered: {tally.recovered}"
    )
    typer.echo(
        f"sides of splits brought in: {tally.united}, with {tally.doubled} samples used twice; "
        f"given up: {tally.abandoned}; counted too high: {tally.counted_high}"
    )
    if tally.majorities:
        typer.echo(
            f"swarms of which one side goes on: {tally.majorities}; waiting for a majority in the end: {tally.waiting}"
        )
    if tally.gossips:
        typer.echo(
            f"swarms that gossip: {tally.gossips}; shares that changed hands: {tally.moved}, "
            f"that came back: {tally.returned}, lost between two: {tally.lost}; "
            f"weights that died: {tally.died}, given up: {tally.voided}"
        )
    typer.echo("faults: " + (", ".join(f"{kind} {count}" for kind, count in table["faults"].items()) or "none"))
    recovery = table["recovery_seconds"]
    if tally.recoveries:
        typer.echo(
            f"together again after the network healed: median {recovery['median']:.1f} s, p99 {recovery['p99']:.1f} s, "
            f"at most {recovery['max']:.1f} s (virtual)"
        )
    typer.echo(f"violations: {len(tally.violations)}")
    for outcome in tally.violations[:_SHOWN]:
        typer.echo(f"  seed {outcome.seed}: {outcome.violation}\n    {replay} {outcome.seed}")
    if len(tally.violations) > _SHOWN:
        typer.echo(f"  and {len(tally.violations) - _SHOWN} more: --json prints all of them")

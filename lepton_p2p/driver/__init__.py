"""Runs a pure machine on asyncio: its timers, its sends, its events."""

from lepton_p2p.driver.machine_driver import Machine, MachineDriver, Statistics

__all__ = ["Machine", "MachineDriver", "Statistics"]

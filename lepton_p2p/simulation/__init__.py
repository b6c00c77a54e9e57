"""Whole swarms in one process: the machines that a daemon runs, on a virtual clock and network, from one seed.

As FoundationDB and TigerBeetle do it: every choice comes from the seed, so that a disaster that was found once can be
looked at as often as needed.  ``docs/reliability.md`` tells what is modelled and what is not.
"""

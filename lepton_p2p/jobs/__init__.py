"""Jobs: declarative descriptions of what to train, and how they are read and checked."""

from lepton_p2p.jobs.job import Job, Schedule
from lepton_p2p.jobs.load import job_from_table, load_job, parse_job
from lepton_p2p.jobs.strategy_options import AllReduceOptions, GossipOptions, StrategyOptions
from lepton_p2p.models import check_file

__all__ = [
    "AllReduceOptions",
    "GossipOptions",
    "Job",
    "Schedule",
    "StrategyOptions",
    "check_file",
    "job_from_table",
    "load_job",
    "parse_job",
]

"""The demo's reference: the same job in one process.

Usage: ``python -m lepton_p2p.cli.demo.alone PARENT_PID JOB_FILE PEERS``; the last line on standard output is JSON with
the metrics on the test set.
"""

from __future__ import annotations

import json
import os
import sys

from lepton_p2p.cli.demo.child import die_with
from lepton_p2p.jobs import load_job
from lepton_p2p.training.alone import train_alone


def main() -> None:
    parent, job_file, peers = sys.argv[1:]
    die_with(int(parent))
    os.nice(10)  # the swarm is what people look at
    print(json.dumps(dict(train_alone(load_job(job_file), peers=int(peers)).metrics)))


if __name__ == "__main__":
    main()

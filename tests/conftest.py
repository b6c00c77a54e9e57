"""Make the helpers of this folder importable by all tests, and share the cores between the processes that run them."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers compute at once on all cores, more threads only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

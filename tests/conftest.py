"""Make the helpers of this folder importable by all tests; what holds for all of them on a machine that is busy."""

import os
import signal

import hypothesis

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers compute at once on all cores, more threads only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes is no property of what is tested.
hypothesis.settings.register_profile("lepton", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lepton")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it starts in the background ignore SIGINT; programs that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

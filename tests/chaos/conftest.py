"""The harness of real peers, which chaos is made of, is in a folder that is no package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training_processes"))
sys.path.insert(0, str(Path(__file__).parents[1]))

"""For all tests: every graph that a pipeline makes on the way is verified."""

from __future__ import annotations

import os

os.environ.setdefault("GRAPHOPT_VERIFY", "1")

"""How many processes the tests are shared out to."""

from __future__ import annotations

import os


def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores, and at least four: many tests wait more than they reckon."""
    return max(4, os.cpu_count() or 1)

"""How many processes the tests are shared out to, and what their garbage collection leaves out."""

from __future__ import annotations

import gc
import os


def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores, and at least four: many tests wait more than they reckon."""
    return max(4, os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """What is imported by now stays: without it a collection takes milliseconds, not a third of one
    second, and libraries ask for one whenever they give memory back."""
    gc.collect()
    gc.freeze()

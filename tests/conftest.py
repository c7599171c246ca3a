"""Tests run in several processes (pytest-xdist); each of them, and what it starts, computes in one thread unless told otherwise."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

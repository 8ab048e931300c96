from __future__ import annotations

import gc
import os
from collections.abc import Iterator

# Read when schuss is imported: threads that wait shall sleep. Tests take more threads than there are cores, on machines
# that do other work besides, and a thread that spins keeps the one it waits for from running.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest

import schuss


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture(autouse=True)
def _restore_runtime() -> Iterator[None]:
    """Leave instruction set and threads as every test found them."""
    isa, threads = schuss._core.isa(), schuss.get_num_threads()
    yield
    schuss.use_isa(isa)
    schuss.set_num_threads(threads)


def pytest_collection_finish() -> None:
    """Keep tens of thousands of tests out of every search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    sets = ", ".join(schuss.instruction_sets())
    return f"schuss {schuss.__version__}: {schuss._core.isa()} of {sets}; {schuss.get_num_threads()} threads"

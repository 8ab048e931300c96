from __future__ import annotations

from collections.abc import Iterator

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


def pytest_report_header() -> str:
    sets = ", ".join(schuss.instruction_sets())
    return f"schuss {schuss.__version__}: {schuss._core.isa()} of {sets}; {schuss.get_num_threads()} threads"

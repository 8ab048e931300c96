"""Fresh interpreters that run a script of a test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

SETTINGS = ("SCHUSS_ISA", "SCHUSS_NUM_THREADS", "OMP_NUM_THREADS")
STRICT = ("-X", "dev", "-W", "error")
LARGE = 300_000  # elements, which take long enough for a step to release the GIL and to use threads

STEPPING = f"""
import hashlib, sys
import numpy as np
import schuss

def make(threads=2):
    return schuss.LAMB(np.linspace(-1, 1, {LARGE}, dtype=np.float32), threads=threads)

def digest(optimizer, steps):
    grads = np.linspace(1, -2, {LARGE}, dtype=np.float32)
    for _ in range(steps):
        optimizer.step(grads)
    return hashlib.sha256(optimizer.params.tobytes()).hexdigest()

held = make()
digest(held, 2)  # with a pool of threads, which a fork leaves behind
"""


def python(
    code: str, *arguments: object, flags: tuple[str, ...] = (), limit: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, which may import what the tests do, and give it a minute."""
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    clean["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), clean.get("PYTHONPATH", "")])
    command = [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=limit, check=False)


def output(code: str, *arguments: object, flags: tuple[str, ...] = (), limit: float = 60, **environment: str) -> str:
    """Run a script that must succeed and be silent on the error stream, and return what it prints."""
    done = python(code, *arguments, flags=flags, limit=limit, **environment)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout

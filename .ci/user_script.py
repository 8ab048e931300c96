"""A user's script: what it says must pass mypy --strict against the package as installed, and run."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import schuss

Floats = NDArray[np.float32]

rng = np.random.default_rng(0)
target: Floats = rng.standard_normal((8, 3), dtype=np.float32)
params: dict[str, Floats] = {"weight": np.zeros((8, 3), np.float32), "bias": np.zeros(3, np.float32)}


def gradients() -> dict[str, Floats]:
    """Return the gradient of half the squared distance to the target and to 1."""
    return {"weight": params["weight"] - target, "bias": params["bias"] - np.float32(1)}


optimizer = schuss.AdamW(
    params, lr=schuss.schedules.cosine(0.1, steps=100, warmup=10), weight_decay=0.0, clip=schuss.ClipNorm(10.0)
)
for _ in range(100):
    optimizer.step(gradients())
distance = float(np.abs(params["weight"] - target).max())
assert distance < 0.1, distance
assert optimizer.t == 100
optimizer.lr = 1e-3
optimizer.check(gradients())

groups = schuss.Adam([schuss.Group(params["weight"], l2=0.1), schuss.Group(params["bias"], lr=1e-2)], lr=1e-3)
groups.step([target, None])

saved = optimizer.state_dict()
twin = schuss.AdamW(params, lr=1e-3)
twin.load_state_dict(saved)
with tempfile.TemporaryDirectory() as folder:
    twin.save(Path(folder, "adamw.npz"))
    twin.load(Path(folder, "adamw.npz"))
for other in (copy.deepcopy(optimizer.state_dict()), pickle.loads(pickle.dumps(saved))):
    twin.load_state_dict(other)
twin.reset()

beyond: schuss.Optimizer = schuss.SGD(np.zeros(3), lr=0.1, momentum=0.9, nesterov=True)
beyond.step(np.ones(3))
names: list[str] = sorted(schuss.optimizers())
sets: list[str] = schuss.instruction_sets()
schuss.use_isa(sets[0])
schuss.set_num_threads(1)
threads: int = schuss.get_num_threads()
print(f"{len(names)} optimizers on {sets[0]} with {threads} thread; largest distance to the target {distance:.1e}")

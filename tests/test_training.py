"""A whole run: schedules, clips, noise, accumulation and averages together, interrupted and resumed in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import checkpoint, schedules

STEPS = 23


def model() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "w": rng.standard_normal((6, 5)).astype(np.float32),
        "layers": [rng.standard_normal(9), rng.standard_normal((2, 3))],
    }


def gradients(step: int) -> Any:
    """Return gradients that do not follow from the parameters, one in a while not finite, one in a while None."""
    rng = np.random.default_rng(100 + step)
    grads = schuss.trees.map_leaves(
        lambda p: (p.dtype.type(rng.exponential()) * rng.standard_normal(p.shape)).astype(p.dtype), model()
    )
    if step % 7 == 5:
        grads["w"][2, 3] = np.inf
    if step % 5 == 3:
        grads["layers"][0] = None
    return grads


def adamw(params: Any, **options: Any) -> schuss.Optimizer:
    return schuss.AdamW(
        params,
        lr=schedules.cosine(0.05, steps=20, warmup=3),
        beta1=schedules.linear(0.8, 0.95, steps=9),
        noise=schuss.GradientNoise(0.01, seed=4),
        nonfinite=schuss.Skip(budget=3),
        overrides={"layers.*": {"weight_decay": 0.0, "l1": 1e-3}},
        bounds={"layers.1": schuss.constraints.MaxNorm(1.5), "w": (-2, 2)},
        **options,
    )


RUNS: dict[str, Any] = {
    "percentile, mean of two, EMA": lambda params: schuss.EMA(
        schuss.Accumulate(adamw(params, clip=schuss.AutoClip(40, window=4)), steps=2), decay=0.9, warmup="ratio"
    ),
    "averages of norms, growing batches, SWA": lambda params: schuss.SWA(
        schuss.Accumulate(
            adamw(params, clip=[schuss.ClipValue(2.0), schuss.AdaGC(warmup=2)]), steps=lambda t: 1 + t // 3
        ),
        start=2,
    ),
    "fused EMA": lambda params: schuss.EMA(adamw(params, clip=schuss.ClipAdaptive(0.5), centralize=True), decay=0.8),
    "Lookahead, LossScale": lambda params: schuss.Lookahead(
        schuss.LossScale(
            schuss.Adam(params, lr=schedules.Plateau(0.1, patience=1), nonfinite="skip", clip=schuss.ClipNorm(1.0)),
            interval=3,
        ),
        k=3,
    ),
}


def run(name: str, first: int, last: int, begin: Path | None, end: Path) -> None:
    """Go through some steps, from a checkpoint and to another one."""
    opt = RUNS[name](model())
    if begin is not None:
        opt.load(begin)
    for step in range(first, last):
        opt.step(gradients(step))
        lr = opt.lr
        if isinstance(lr, schedules.Plateau):
            lr.report(float(step % 4))
    opt.save(end, params=True)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_interrupted_ends_with_the_same_bits(name: str, suffix: str, tmp_path: Path) -> None:
    ends = [tmp_path / f"{end}.{suffix}" for end in ("unbroken", "half", "resumed")]
    run(name, 0, STEPS, None, ends[0])
    here = str(Path(__file__).parent)
    script = f"import sys; sys.path.insert(0, {here!r}); from pathlib import Path; import test_training as t\n"
    for first, last, begin, end in ((0, 10, None, ends[1]), (10, STEPS, ends[1], ends[2])):
        start = None if begin is None else str(begin)
        code = f"t.run({name!r}, {first}, {last}, {start!r} and Path({start!r}), Path({str(end)!r}))"
        subprocess.run([sys.executable, "-c", script + code], check=True)
    (arrays, header), (others, other) = (checkpoint.read(end) for end in (ends[0], ends[2]))
    assert header == other
    assert {key: each.tobytes() for key, each in arrays.items()} == {
        key: each.tobytes() for key, each in others.items()
    }
    a, b = RUNS[name](model()), RUNS[name](model())
    a.load(ends[0])
    b.load(ends[2])
    start = [leaf for _, leaf in schuss.trees.leaves(model())]
    for (_, ours), (_, theirs), before in zip(
        schuss.trees.leaves(a.params), schuss.trees.leaves(b.params), start, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != before).any()

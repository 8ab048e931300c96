"""Checkpoints of older versions: each loads to the values it was saved with, and the run goes on.

``python tests/test_checkpoint_versions.py DIRECTORY [KIND ...]`` writes the files of the installed version, and the values
in them. Those of each format are kept, in `data/checkpoints`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import checkpoint, trees

STORED = Path(__file__).parent / "data" / "checkpoints"
VALUES = "values.json"


def params() -> dict[str, Any]:
    return {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": [np.linspace(1, 2, 3), np.array(0.5)]}


def plain() -> Any:
    return schuss.Adam(params(), lr=0.125)


def clipped() -> Any:
    """With what a clip and a schedule have learnt."""
    return schuss.Adam(params(), lr=schuss.schedules.Plateau(0.125), clip=schuss.AutoClip())


def groups() -> Any:
    parts = [schuss.Group({"w": np.linspace(-1, 1, 4).reshape(2, 2)}, lr=0.5), schuss.Group([np.ones(3, np.float32)])]
    return schuss.NovoGrad(parts, lr=0.25)


def wrapped() -> Any:
    return schuss.EMA(schuss.Lookahead(schuss.Accumulate(schuss.SGD(params(), lr=0.5, momentum=0.5), steps=2), k=2))


def matrix() -> Any:
    return schuss.Shampoo(params(), lr=0.125)


def closure() -> Any:
    return schuss.LBFGS(params(), history=3)


KINDS: dict[str, Callable[[], Any]] = {
    build.__name__: build for build in (plain, clipped, groups, wrapped, matrix, closure)
}


def run(target: Any, steps: int) -> None:
    """Step down a bowl; now and then there is no gradient for a tensor."""
    for _ in range(steps):
        grads = trees.map_leaves(lambda leaf: leaf * 2, target.params)
        if hasattr(target, "evaluations"):
            square = sum(float((leaf**2).sum()) for _, leaf in trees.leaves(target.params))
            target.step(lambda square=square, grads=grads: (square, grads))
        else:
            target.step(grads)


def everything(target: Any) -> dict[str, Any]:
    """Return parameters, state arrays and counts by name, as what JSON can hold exactly."""
    found: dict[str, Any] = {f"params{path}": leaf.tolist() for path, leaf in trees.leaves(target.params)}

    def add(where: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                add(f"{where}.{key}", each)
        elif isinstance(value, list):
            for i, each in enumerate(value):
                add(f"{where}.{i}", each)
        elif isinstance(value, np.ndarray):
            found[where] = value.tolist()
        elif where.rpartition(".")[2] not in ("format", "schuss"):
            found[where] = value

    add("state", target.state_dict())
    return found


def write(directory: Path, kinds: list[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    values = {}
    for kind in kinds:
        target = KINDS[kind]()
        run(target, 3)
        for suffix in (".npz", ".safetensors"):
            target.save(directory / f"{kind}{suffix}", params=True)
        values[kind] = everything(target)
    (directory / VALUES).write_text(json.dumps(values) + "\n")


FILES = sorted(STORED.glob("*/*.npz")) + sorted(STORED.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_stored_file_loads_and_the_run_goes_on(path: Path) -> None:
    loaded, twin = KINDS[path.stem](), KINDS[path.stem]()
    loaded.load(path)
    found, stored = everything(loaded), json.loads((path.parent / VALUES).read_text())[path.stem]
    saved = {key.replace(".clips.0.", ".clips.AutoClip."): value for key, value in stored.items()}
    # What an older version did not keep has begun anew.
    assert {key: value for key, value in found.items() if key in saved} == saved
    assert {key for key in found if key not in saved} <= set(everything(KINDS[path.stem]()))
    run(twin, 3)
    run(loaded, 3)
    run(twin, 3)
    # The steps before were those of another version, which may have rounded otherwise, and of another machine's BLAS.
    ours, theirs = everything(loaded), everything(twin)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, float | list):
            np.testing.assert_allclose(value, theirs[key], rtol=1e-5, atol=1e-7, err_msg=key)
        else:
            assert value == theirs[key], key


def test_every_kind_and_format_is_stored() -> None:
    assert {path.stem for path in FILES} == set(KINDS)
    formats = {checkpoint.read(path)[1]["format"] for path in FILES if path.stem in ("plain", "clipped", "groups")}
    assert formats == set(range(1, schuss.state.FORMAT + 1)), "store files of the new format; see the top of this file"


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_format_is_refused(kind: str, tmp_path: Path) -> None:
    """Whatever it may hold besides, the numbers are what is said."""
    target = KINDS[kind]()
    target.save(tmp_path / "run.npz")
    before = everything(target)
    arrays, metadata = checkpoint.read(tmp_path / "run.npz")
    newest = metadata["format"]
    sentence = (
        rf"the state has format {newest + 1}, but this version reads format {newest}( and older)?; update schuss$"
    )
    state = target.state_dict() | {"format": newest + 1, "more": 5}
    del state["wrapper" if kind == "wrapped" else "names"]
    with pytest.raises(schuss.StateError, match=sentence):
        target.load_state_dict(state)
    checkpoint.write(tmp_path / "run.npz", arrays, metadata | {"format": newest + 1, "more": 5})
    with pytest.raises(schuss.StateError, match=sentence):
        target.load(tmp_path / "run.npz")
    assert everything(target) == before


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:] or list(KINDS))

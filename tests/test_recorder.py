"""What a recorder and a noise scale say is what NumPy says, and a step with a recorder is the step without."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import itertools
import json
import math
import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import SLOW, VARIANTS, Variant, everything, inputs_for, snapshot

import schuss
from schuss import trees
from schuss.recorder import NonFinite, Recorder

NAMES = (
    "lr",
    "gradient_norm",
    "parameter_norm",
    "update_norm",
    "update_ratio",
    "effective_lr",
    "agreement",
    "clipped",
    "dead",
)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def params_and_grads(rng: np.random.Generator, steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return parameters of several dtypes and orders, and gradients with zeros in them."""
    params = {
        "w": rng.standard_normal((30, 7)).astype(np.float32),
        "f": np.asfortranarray(rng.standard_normal((5, 6))),
        "half": rng.standard_normal(11).astype(ml_dtypes.bfloat16),
        "z": rng.standard_normal(4) + 1j * rng.standard_normal(4),
        "b": np.array(0.5),
    }
    grads = []
    for _ in range(steps):
        batch = trees.map_leaves(lambda p: np.asarray(rng.standard_normal(p.shape)).astype(p.dtype), params)
        batch["w"][rng.random((30, 7)) < 0.25] = 0
        grads.append(batch)
    return params, grads


def reals(array: Any) -> np.ndarray:
    """Return numbers in double precision, complex ones as twice as many reals."""
    array = np.asarray(array)
    if array.dtype.kind == "c":
        return np.concatenate([array.real.ravel(), array.imag.ravel()]).astype(np.float64)
    return array.astype(np.float64).ravel()


def test_numbers_are_those_of_numpy(rng: np.random.Generator) -> None:
    """Of Adam with a clip, whose momentum is followed by hand; in float64, but for the order of sums."""
    params, grads = params_and_grads(rng, 6)
    opt = schuss.Adam(params, lr=lambda t: 0.1 / (t + 1), clip=schuss.ClipNorm(3.0), maximize=True, beta1=0.6)
    recorder = Recorder(opt)
    momentum = {name: np.zeros(reals(p).size) for name, p in params.items()}
    for step, batch in enumerate(grads):
        before = {name: reals(p).copy() for name, p in params.items()}
        opt.step(batch)
        found = recorder.to_dict()
        assert found["steps"] == list(range(step + 1))
        total = math.sqrt(sum(np.linalg.norm(reals(g)) ** 2 for g in batch.values()))
        for name, parameter in params.items():
            g, update = reals(batch[name]), reals(parameter) - before[name]
            size, slope, weight = (np.linalg.norm(x) for x in (update, g, before[name]))
            both = (g != 0) & (momentum[name] != 0)
            agree = np.sign(-g[both]) == np.sign(momentum[name][both])
            expected = {
                "lr": 0.1 / (step + 1),
                "gradient_norm": slope,
                "parameter_norm": weight,
                "update_norm": size,
                "update_ratio": size / weight,
                "effective_lr": size / slope,
                "agreement": agree.mean() if both.any() else math.nan,
                "clipped": float(total > 3),
                "dead": (g == 0).mean(),
            }
            got = {key: values[step] for key, values in found["tensors"][f"params['{name}']"].items()}
            assert tuple(got) == NAMES
            for key, value in expected.items():
                np.testing.assert_allclose(got[key], value, rtol=1e-13, err_msg=f"{name}: {key}")
            momentum[name] = 0.6 * momentum[name] - 0.4 * g * min(1, 3 / total)


def test_shares_that_are_clipped(rng: np.random.Generator) -> None:
    """Elements under ClipValue, in each tensor; tensors or rows under clips of norms, over all."""
    g = {"a": np.array([0.5, -3.0, 2.5, 0.1]), "b": np.array([0.5, 0.5])}
    cases: list[tuple[Any, list[float]]] = [
        (schuss.ClipValue(1.0), [0.5, 0.0]),
        (schuss.ClipNorm(1.0), [1.0, 1.0]),
        (schuss.ClipNorm(1.0, per="tensor"), [0.5, 0.5]),
        (schuss.ClipNorm(100.0), [0.0, 0.0]),
        ([schuss.ClipValue(1.0), schuss.ClipNorm(1.0, per="tensor")], [0.5, 0.5]),
        (None, [0.0, 0.0]),
    ]
    for clip, expected in cases:
        opt = schuss.SGD({"a": rng.standard_normal(4), "b": rng.standard_normal(2)}, clip=clip)
        recorder = Recorder(opt)
        opt.step(g)
        found = recorder.to_dict()["tensors"]
        assert [found[f"params['{name}']"]["clipped"][0] for name in g] == expected, clip


def test_a_gradient_is_measured_as_the_step_reads_it(rng: np.random.Generator) -> None:
    """Scaled, in the compute type, in another memory order than the parameter's."""
    w = rng.standard_normal((4, 3)).astype(np.float32)
    opt, g = schuss.SGD(w), np.asfortranarray(rng.standard_normal((4, 3)))
    recorder = Recorder(opt)
    for scale in (1.0, 0.3):
        opt.step(g, grad_scale=scale)
    norms = recorder.to_dict()["tensors"]["params"]["gradient_norm"]
    exact = [np.linalg.norm((np.float32(scale) * g.astype(np.float32)).astype(np.float64)) for scale in (1.0, 0.3)]
    np.testing.assert_allclose(norms, exact, rtol=1e-14)
    assert abs(norms[0] / np.linalg.norm(g) - 1) > 1e-12, "rounded to float32"


def test_norms_whose_squares_are_out_of_range() -> None:
    huge, tiny = np.array([3e200, 4e200]), np.array([3e-200, 4e-200])
    opt = schuss.SGD({"huge": np.zeros(2), "tiny": np.zeros(2), "least": np.zeros(1)}, lr=0.5)
    recorder = Recorder(opt)
    opt.step({"huge": huge, "tiny": tiny, "least": np.array([5e-324])})
    found = recorder.to_dict()["tensors"]
    norms = [found[f"params['{name}']"]["gradient_norm"][0] for name in ("huge", "tiny", "least")]
    np.testing.assert_allclose(norms, [5e200, 5e-200, 5e-324], rtol=1e-15)
    np.testing.assert_allclose(found["params['tiny']"]["effective_lr"][0], 0.5, rtol=1e-15)


@each_variant
def test_a_step_is_the_step_without_a_recorder(variant: Variant, rng: np.random.Generator) -> None:
    """Bit for bit, and the records do not depend on the number of threads."""
    start = {"w": rng.standard_normal((150, 200)).astype(np.float32), "b": rng.standard_normal(7)}
    steps = []
    plain = variant.make(copy.deepcopy(start))
    for _ in range(3):
        grads = trees.map_leaves(lambda p: rng.standard_normal(p.shape).astype(p.dtype), start)
        steps.append((grads, inputs_for(plain, grads, rng)))
    records = []
    for threads in (1, 3):
        opt = variant.make(copy.deepcopy(start), threads=threads)
        recorder = Recorder(opt, every=2)
        for grads, inputs in steps:
            opt.step(grads, **inputs)
        records.append(np.array([record.values for record in recorder._records]).tobytes())
        assert len(recorder) == 2
    assert records[0] == records[1]
    for grads, inputs in steps:
        plain.step(grads, **inputs)
    assert snapshot(opt) == snapshot(plain)


def test_every_kth_step_is_recorded(rng: np.random.Generator) -> None:
    """The others ask the recorder and nothing more."""
    w = rng.standard_normal(5)
    opt = schuss.Adam(w)
    recorder = Recorder(opt, every=4)
    for step in range(10):
        assert (recorder._observe(w, 1.0) is not None) == (step % 4 == 0)
        opt.step(w.copy())
    assert recorder.to_dict()["steps"] == [0, 4, 8]
    assert repr(recorder) == "Recorder(Adam, every=4; 3 records of 1 tensor, steps 0 to 8)"


def test_steps_are_the_optimizers_own(tmp_path: Path) -> None:
    """A run that is resumed records the steps that the unbroken one does."""
    opt = schuss.Momentum(np.ones(3))
    for _ in range(5):
        opt.step(np.ones(3))
    opt.save(tmp_path / "run.npz")
    resumed = schuss.Momentum(np.ones(3))
    resumed.load(tmp_path / "run.npz")
    recorder = Recorder(resumed, every=3)
    for _ in range(5):
        resumed.step(np.ones(3))
    assert recorder.to_dict()["steps"] == [6, 9]


def test_close_takes_the_recorder_off() -> None:
    opt = schuss.SGD(np.ones(3))
    assert opt._observers == ()
    first = Recorder(opt)
    with Recorder(opt) as second:
        opt.step(np.ones(3))
    opt.step(np.ones(3))
    assert (len(first), len(second)) == (2, 1)
    first.close()
    first.close()
    assert opt._observers == ()
    opt.step(np.ones(3))
    assert len(first) == 2
    assert "closed" in repr(first)


def test_copies_have_no_recorder() -> None:
    """Neither copies of the optimizer, which go on, nor those of the recorder, which keep what was recorded."""
    opt = schuss.Adam(np.ones(3))
    recorder = Recorder(opt)
    opt.step(np.ones(3))
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), copy.copy(opt)):
        assert twin._observers == ()
    copy.deepcopy(opt).step(np.ones(3))
    for twin in (copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert "closed" in repr(twin)
        assert str(twin.to_dict()) == str(recorder.to_dict())
        twin.close()
    opt.step(np.ones(3))
    assert len(recorder) == 2
    both = copy.deepcopy({"opt": opt, "recorder": recorder})
    both["opt"].step(np.ones(3))
    assert (len(recorder), len(both["recorder"])) == (2, 2)


def test_an_optimizer_goes_with_its_recorder() -> None:
    """Rebinding, loading and resetting leave it attached."""
    opt = schuss.Momentum([np.ones(3)])
    recorder = Recorder(opt)
    opt.step([np.ones(3)])
    opt.rebind([np.zeros(3)])
    opt.step([np.ones(3)])
    opt.reset()
    opt.load_state_dict(opt.state_dict())
    opt.step([np.ones(3)])
    assert recorder.to_dict()["steps"] == [0, 1, 0]
    assert math.isnan(recorder.to_dict()["tensors"]["params[0]"]["update_ratio"][1])


def test_groups_and_tensors_that_are_added() -> None:
    opt = schuss.SGD([schuss.Group(np.ones(3), lr=0.5)], lr=0.1, momentum=0.9)
    recorder = Recorder(opt)
    opt.step([np.ones(3)])
    opt.add(schuss.Group({"new": np.ones(2)}))
    opt.step([np.ones(3), {"new": np.full(2, 2.0)}])
    opt.step([None, {"new": None}])
    opt.step([None, {"new": np.full(2, 2.0)}])
    found = recorder.to_dict()
    assert found["steps"] == [0, 1, 2], "a step without any gradient is none"
    old, new = found["tensors"]["params[0]"], found["tensors"]["params[1]['new']"]
    np.testing.assert_array_equal(old["lr"], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(new["lr"], [math.nan, 0.1, 0.1])
    np.testing.assert_allclose(new["gradient_norm"], [math.nan, 8**0.5, 8**0.5])
    np.testing.assert_array_equal(old["update_norm"][2], 0.0)
    for name in ("gradient_norm", "effective_lr", "agreement", "clipped", "dead"):
        assert math.isnan(old[name][2]), name


def test_the_newest_records_are_kept() -> None:
    opt = schuss.SGD(np.ones(3))
    recorder = Recorder(opt, keep=3)
    for _ in range(10):
        opt.step(np.ones(3))
    assert recorder.to_dict()["steps"] == [7, 8, 9]
    assert recorder._records[0].values.nbytes == 72


# ---- what is not finite ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
def test_the_first_number_that_is_not_finite(policy: Any) -> None:
    params = {"a": np.ones(3), "b": [np.ones((2, 3), np.float32), np.ones(1)]}
    opt = schuss.SGD(params, nonfinite=policy)
    recorder = Recorder(opt)
    fine = trees.map_leaves(np.ones_like, params)
    opt.step(fine)
    bad = copy.deepcopy(fine)
    bad["b"][0] = np.array([[1, 1, 1], [1, 1e300, math.nan]])  # the first is infinite in float32
    bad["b"][1][0] = math.nan
    if policy == "raise":
        with pytest.raises(FloatingPointError, match=r"grads\['b'\]\[0\] holds 1e\+300 at index \(1, 1\)"):
            opt.step(bad)
    else:
        opt.step(bad)
    opt.step(trees.map_leaves(lambda p: np.full_like(p, math.inf), params) if policy == "propagate" else fine)
    assert recorder.nonfinite == NonFinite(1, "gradient", "params['b'][0]", (1, 1), "inf")
    found = recorder.to_dict()
    assert found["nonfinite"]["index"] == (1, 1)
    assert "not finite: gradient of params['b'][0]" in repr(recorder)
    steps = {"propagate": [0, 1, 2], "skip": [0, 1, 1], "raise": [0, 1]}[policy]
    assert found["steps"] == steps
    assert found["skipped"] == [policy == "skip" and k == 1 for k in range(len(steps))]
    if policy == "skip":
        assert found["tensors"]["params['a']"]["update_norm"][1] == 0


def test_a_parameter_that_a_step_makes_infinite() -> None:
    w = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    opt = schuss.SGD(w, lr=1e30)
    recorder = Recorder(opt)
    with np.errstate(all="raise"):
        opt.step(np.array([[0, 0], [0, 1e20]], np.float32))
    assert recorder.nonfinite == NonFinite(0, "parameter", "params", (1, 1), "-inf")
    assert recorder.to_dict()["tensors"]["params"]["update_norm"] == [math.inf]


def test_a_deep_net_that_explodes(rng: np.random.Generator) -> None:
    """The tensor and the step at which a net of thirty linear layers leaves float32."""
    layers = [(3 * rng.standard_normal((8, 8))).astype(np.float32) for _ in range(30)]
    opt = schuss.SGD(layers, lr=1e-3)
    recorder = Recorder(opt)
    with np.errstate(all="ignore"):
        for _ in range(40):
            inputs = [np.eye(8, dtype=np.float32)]
            for layer in layers:
                inputs.append(inputs[-1] @ layer)
            back, grads = inputs[-1], [np.zeros(0)] * 30
            for k in reversed(range(30)):
                grads[k] = inputs[k].T @ back
                back = back @ layers[k].T
            if any(not np.isfinite(g).all() for g in grads):
                break
            opt.step(grads)
        expected = next(k for k, g in enumerate(grads) if not np.isfinite(g).all())
        step = opt.t
        opt.step(grads)
    assert recorder.nonfinite is not None
    assert (recorder.nonfinite.step, recorder.nonfinite.tensor) == (step, f"params[{expected}]")
    index = recorder.nonfinite.index
    assert index == tuple(int(i) for i in np.argwhere(~np.isfinite(grads[expected]))[0])


# ---- the momentum ----------------------------------------------------------------------------------------------------------

NOT_CALLED_M = {
    "Momentum": "v",
    "MoMo": "d",
    "AdEMAMix": "m1",
    "SGD-momentum": "buffer",
    "SGDW-momentum-nesterov": "buffer",
    "SGDP-momentum": "buffer",
    "LARS": "buffer",
    "RMSprop-momentum": "buffer",
}
WITHOUT = [
    "SGD",
    "Adagrad",
    "Adadelta",
    "Rprop",
    "RMSprop",
    "ASGD",
    "FTRL",
    "COCOB",
    "MADGRAD-momentum",
    "ScheduleFreeSGD",
]


@each_variant
def test_the_momentum_is_found(variant: Variant) -> None:
    """By what it does: wherever there is an `m` it is that; sums, averages of weights and last gradients are none."""
    opt = variant.make(np.ones(2))
    recorder = Recorder(opt)
    found = None if recorder._slot is None else opt._element_slots[recorder._slot]
    if "m" in opt._element_slots:
        assert found == "m"
    if str(variant) in NOT_CALLED_M:
        assert found == NOT_CALLED_M[str(variant)]
    if str(variant) in WITHOUT:
        assert found is None
    opt.step(np.ones(2), **inputs_for(opt, np.ones(2), np.random.default_rng(0)))
    agreement = recorder.to_dict()["tensors"]["params"]["agreement"]
    assert math.isnan(agreement[0]), "no momentum yet"


# ---- tables and pictures ---------------------------------------------------------------------------------------------------


def recorded(rng: np.random.Generator, layers: int, steps: int = 12) -> Recorder:
    """Return a recorder of a net with two tensors in each layer."""
    params = {f"layer{k:02}": {"w": rng.standard_normal((4, 4)), "b": np.zeros(4)} for k in range(layers)}
    opt = schuss.SGD(params, momentum=0.9, lr=0.1)
    recorder = Recorder(opt, every=2)
    for _ in range(2 * steps):
        opt.step(trees.map_leaves(lambda p: rng.standard_normal(p.shape) * (rng.random(p.shape) > 0.2), params))
    return recorder


def test_csv_is_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    """To the same bits."""
    recorder = recorded(rng, 2)
    recorder.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = recorder.to_dict()
    assert len(rows) == len(found["steps"]) * len(found["tensors"])
    for number, row in enumerate(rows):
        record, tensor = divmod(number, len(found["tensors"]))
        name = list(found["tensors"])[tensor]
        assert (row["step"], row["tensor"], row["skipped"]) == (str(found["steps"][record]), name, "0")
        for key in NAMES:
            np.testing.assert_array_equal(float(row[key]), found["tensors"][name][key][record])


def test_to_dict_is_plain(rng: np.random.Generator) -> None:
    found = recorded(rng, 1).to_dict()
    assert json.loads(json.dumps(found))["steps"] == found["steps"]


class Writer:
    """Takes what TensorBoard would."""

    def __init__(self, folder: str = "") -> None:
        self.folder, self.closed = folder, False
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert (tag, step) not in self.scalars
        self.scalars[tag, step] = value

    def close(self) -> None:
        self.closed = True


def test_tensorboard_writer(rng: np.random.Generator) -> None:
    recorder, writer = recorded(rng, 2), Writer()
    recorder.to_tensorboard(writer)
    found = recorder.to_dict()
    defined = 0
    for name, short in (("params['layer00']['w']", "layer00/w"), ("params['layer01']['b']", "layer01/b")):
        for key, (step, value) in itertools.product(
            NAMES, zip(found["steps"], range(len(found["steps"])), strict=True)
        ):
            number = found["tensors"][name][key][value]
            if math.isnan(number):
                assert (f"{key}/{short}", step) not in writer.scalars
            else:
                defined += 1
                assert writer.scalars[f"{key}/{short}", step] == number
    assert defined > 150
    later = Writer()
    recorder.to_tensorboard(later, since=10)
    assert later.scalars == {key: value for key, value in writer.scalars.items() if key[1] >= 10}
    assert not writer.closed, "it is the caller's"


def test_tensorboard_folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Writer] = []
    fake = types.ModuleType("tensorboardX")
    vars(fake)["SummaryWriter"] = lambda folder: made.append(Writer(folder)) or made[-1]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    recorder, expected = recorded(rng, 1), Writer()
    recorder.to_tensorboard(tmp_path)
    recorder.to_tensorboard(expected)
    assert [(each.folder, each.closed) for each in made] == [(str(tmp_path), True)]
    assert made[0].scalars == expected.scalars
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ModuleNotFoundError, match="Recorder: to_tensorboard needs torch with tensorboard, or tensorboardX"
    ):
        recorder.to_tensorboard(tmp_path)


@pytest.mark.parametrize("layers", [1, 5, 25, 120])
def test_pictures(layers: int, rng: np.random.Generator) -> None:
    """Six panels; every one of fifty tensors is named, and no name covers another."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = recorded(rng, layers).plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels][:2] == ["gradient norm", "parameter norm"]
    assert len(panels) == 6
    if layers <= 5:
        assert all(len(ax.get_lines()) == 2 * layers for ax in panels)
        assert [ax.get_yscale() for ax in panels] == ["log"] * 4 + ["linear"] * 2
        assert len(figure.legends[0].get_texts()) == 2 * layers
        return
    labels = [label for label in panels[0].get_yticklabels() if label.get_text()]
    assert labels[0].get_text() == "layer00/w"
    assert len(labels) == (50 if layers == 25 else 80)
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    assert all(above.y0 >= below.y1 - 0.5 for above, below in itertools.pairwise(boxes)), "names overlap"
    mesh = panels[0].collections[0]
    found = np.ma.getdata(mesh.get_array()).reshape(2 * layers, -1)
    assert found.shape[1] == 12


def test_a_picture_with_what_is_rare(rng: np.random.Generator) -> None:
    """One record; steps that were skipped; numbers that are not finite; a rule without momentum."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for tensors in (2, 20):
        opt = schuss.SGD([np.ones(2) for _ in range(tensors)], nonfinite="skip")
        recorder = Recorder(opt)
        with pytest.raises(ValueError, match="Recorder: nothing was recorded yet; step first"):
            recorder.plot()
        opt.step([np.ones(2) for _ in range(tensors)])
        FigureCanvasAgg(recorder.plot()).draw()
        opt.step([np.array([math.nan, 1.0]) for _ in range(tensors)])
        opt.step([np.zeros(2) for _ in range(tensors)])
        figure = recorder.plot()
        FigureCanvasAgg(figure).draw()
        assert len([ax for ax in figure.axes if ax.get_title() and ax.get_visible()]) == 5


# ---- wrappers and mistakes ------------------------------------------------------------------------------------------------


class Halved:
    """Stands for a wrapper: steps what it wraps with half the gradients."""

    def __init__(self, optimizer: schuss.Optimizer) -> None:
        self.base = self.optimizer = optimizer

    def step(self, grads: Any, **inputs: Any) -> None:
        self.optimizer.step(grads / 2, **inputs)


def test_of_a_wrapper_the_innermost_is_recorded() -> None:
    wrapper = Halved(schuss.SGD(np.ones(4)))
    recorder = Recorder(wrapper)
    wrapper.step(np.ones(4))
    assert recorder.to_dict()["tensors"]["params"]["gradient_norm"] == [1.0]
    assert "SGD" in repr(recorder)


def test_mistakes_are_named_and_change_nothing() -> None:
    opt = schuss.SGD(np.ones(3))
    with pytest.raises(TypeError, match=r"^Recorder: optimizer must be an Optimizer or a wrapper, got list$"):
        Recorder([])
    for every in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"^Recorder: every must be in \{1, 2, ...\}, got "):
            Recorder(opt, every=every)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Recorder: every must be a real number, got True$"):
        Recorder(opt, every=True)
    with pytest.raises(ValueError, match=r"^Recorder: keep must be in "):
        Recorder(opt, keep=0)
    assert opt._observers == ()


def test_a_refused_step_is_not_recorded() -> None:
    opt = schuss.SGD(np.ones(3))
    recorder = Recorder(opt)
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.ones(4))
    assert len(recorder) == 0
    opt.step(np.ones(3))
    assert recorder.to_dict()["steps"] == [0]


def test_recording_leaves_no_copies_behind() -> None:
    """After a recorded step the recorder holds its numbers alone."""
    opt = schuss.Adam(np.ones(3))
    recorder = Recorder(opt)
    opt.step(np.ones(3))
    arrays = [record.values for record in recorder._records]
    assert [array.shape for array in arrays] == [(1, 9)]
    assert all(not np.shares_memory(array, mine) for array in arrays for mine in everything(opt))


# ---- the noise of gradients ------------------------------------------------------------------------------------------------


def micro_batches(
    rng: np.random.Generator, count: int, batch: int, gradient: np.ndarray, root: np.ndarray
) -> list[Any]:
    """Return gradients of micro-batches: means over examples with a known covariance, root @ root.T."""
    examples = gradient + rng.standard_normal((count, batch, len(gradient))) @ root.T
    means = examples.mean(axis=1)
    return [{"w": m[:5].reshape(5, 1).astype(np.float32), "b": [m[5:], None]} for m in means]


@pytest.mark.parametrize(("batch", "count"), [(1, 2), (4, 4), *([(16, 8)] if SLOW else [])])
def test_noise_scale_of_a_known_covariance(batch: int, count: int, rng: np.random.Generator) -> None:
    """|G|^2 and the trace within five standard errors over 4000 steps, and so their ratio."""
    gradient, root = rng.standard_normal(8), rng.standard_normal((8, 8))
    signal, trace = float(gradient @ gradient), float(np.trace(root @ root.T))
    signals, traces = [], []
    scale = schuss.GradientNoiseScale(batch, decay=0.9999)
    for _ in range(4000):
        one = schuss.GradientNoiseScale(batch, decay=0.0)
        batches = micro_batches(rng, count, batch, gradient, root)
        one.update(batches)
        scale.update(iter(batches))
        signals.append(one.signal)
        traces.append(one.noise)
    for values, truth, average in ((signals, signal, scale.signal), (traces, trace, scale.noise)):
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 5 * error
        assert abs(average - truth) < 7 * error  # its weights are not all equal
        assert 5 * error < 0.4 * truth, "or the test could not fail"
    assert scale.value == scale.noise / scale.signal


def test_noise_scale_by_hand() -> None:
    """Two micro-batches of 8: (1, 2) and (3, 0); with norms alone; averages corrected for their start."""
    small, large = (5 + 9) / 2, 4 + 1
    signal, noise = (16 * large - 8 * small) / (16 - 8), (small - large) / (1 / 8 - 1 / 16)
    for decay in (0.0, 0.9):
        scale = schuss.GradientNoiseScale(8, decay)
        assert math.isnan(scale.value)
        assert math.isnan(scale.signal)
        scale.update([[np.array([1.0]), 2.0], [np.array([3.0]), None]])
        np.testing.assert_allclose(
            [scale.signal, scale.noise, scale.value], [signal, noise, noise / signal], rtol=1e-14
        )
        scale.update_norms(9.0, 3.0, 4)
        signal2, noise2 = (32 * 3 - 8 * 9) / 24, 6 / (1 / 8 - 1 / 32)
        share = 1 / (1 + decay)
        np.testing.assert_allclose(scale.signal, share * signal2 + (1 - share) * signal, rtol=1e-14)
        np.testing.assert_allclose(scale.noise, share * noise2 + (1 - share) * noise, rtol=1e-14)
        twin = schuss.GradientNoiseScale(8, decay)
        twin.load_state_dict(json.loads(json.dumps(scale.state_dict())))
        assert (twin.value, twin.signal) == (scale.value, scale.signal)
        assert repr(scale).startswith(f"GradientNoiseScale(batch=8, decay={decay:g}; value=")
    assert schuss.gradient_noise_scale([np.array([1.0, 2.0]), np.array([3.0, 0.0])], 8) == pytest.approx(noise / signal)


def test_noise_that_hides_the_gradient() -> None:
    assert schuss.gradient_noise_scale([np.array([1.0]), np.array([-1.0])], 1) == math.inf


def test_mistakes_with_noise_scales_change_nothing() -> None:
    scale = schuss.GradientNoiseScale(4)
    scale.update([np.ones(2), np.zeros(2)])
    before = scale.state_dict()
    with pytest.raises(ValueError, match=r"^GradientNoiseScale: micro_batches must be at least two, got 1; "):
        scale.update([np.ones(2)])
    with pytest.raises(ValueError, match="must be at least two, got 0"):
        scale.update([])
    for wrong in (np.ones((2, 2)), {"w": np.ones(2)}, 3.0):
        with pytest.raises(TypeError, match=r"^GradientNoiseScale: micro_batches must be a list of gradients, got "):
            scale.update(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="micro-batch 1 has an array of 3 numbers, but the first has 2 there"):
        scale.update([np.ones(2), np.ones(3)])
    with pytest.raises(ValueError, match="micro-batch 1 has 1 arrays, but the first has 2"):
        scale.update([[np.ones(2), np.ones(2)], [np.ones(2)]])
    with pytest.raises(ValueError, match=r"small must be in \[0, inf\), got nan"):
        scale.update([np.array([math.nan]), np.ones(1)])
    with pytest.raises(ValueError, match="state must have signal, noise and weight"):
        scale.load_state_dict({"signal": 1.0})
    with pytest.raises(ValueError, match="noise must be in"):
        scale.load_state_dict({"signal": 1.0, "noise": math.nan, "weight": 1.0})
    assert scale.state_dict() == before
    with pytest.raises(ValueError, match=r"batch must be in \{1, 2, ...\}, got 0"):
        schuss.GradientNoiseScale(0)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        schuss.GradientNoiseScale(1, decay=1.0)


def test_the_page_on_insight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run, one after the other, and say what stands beside them."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "docs" / "insight.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    namespace: dict[str, Any] = {"__name__": "insight"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(compile(block, str(page), "exec"), namespace)
    shown = printed.getvalue()
    for block in blocks:
        for said in re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE):
            assert re.search(re.escape(said).replace(r"\.\.\.", ".*"), shown), said
    assert {path.name for path in tmp_path.iterdir()} == {"range.png", "run.png", "run.csv"}

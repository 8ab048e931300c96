"""The file layer of checkpoints: whatever happened to a file, reading gives what was written or an error."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle
import re
import resource
import stat
import struct
import sys
import threading
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schuss import checkpoint
from schuss.checkpoint import CheckpointError

SUFFIXES = [".npz", ".safetensors"]
Content = tuple[dict[str, np.ndarray], dict[str, Any]]

# With every special case of the formats, and small: its file is read once for each of its bits.
SMALL: Content = (
    {"m": np.array([1.5, -0.0], np.float32), "b": np.array(1, ml_dtypes.bfloat16), "z/é": np.array([1 + 2j])},
    {"t": 7, "lr": math.inf},
)
OTHER: Content = ({"m": np.arange(5000.0)}, {"t": 8})


def short(value: object) -> str:
    """Return the name of a test's parameter, since some are 100 kB long."""
    return repr(value)[:20]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"run{request.param}"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def plain(content: Content) -> object:
    """Return all that counts, comparable: arrays with their bytes, and metadata where 1, 1.0 and True differ."""
    arrays, metadata = content
    return [(name, a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()], repr(metadata)


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def refused(path: Path, what: str) -> None:
    """Reading `path` fails for the reason `what`, without memory beyond the file's size."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=what) as caught:
            checkpoint.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300
    assert peak < path.stat().st_size + 2_000_000


def damaged(path: Path, what: str) -> None:
    refused(path, rf"is damaged or not a checkpoint of schuss \(.*{what}.*\); restore it from a copy$")


# ---- round trips

DTYPES = [
    *("float16", "float32", "float64", "int64", "uint16", "uint8", "complex64", "complex128"),
    *("bool", "int8", "int16", "int32", "uint32", "uint64", ml_dtypes.bfloat16),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back(path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for shape in [(), (0,), (0, 3), (3, 0), (1,), (4, 3), (2, 3, 4)]:
        bits = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
        array = bits.view(dtype).reshape(shape)
        strided = np.repeat(array[..., None], 2, -1)[..., 0]
        arrays |= {f"c{shape}": array, f"fortran{shape}": np.asarray(array, order="F"), f"strided{shape}": strided}
    checkpoint.write(path, arrays, {})
    found, metadata = checkpoint.read(path)
    assert plain((found, metadata)) == plain((arrays, {}))
    assert all(one.flags.writeable and one.flags.c_contiguous and one.flags.aligned for one in found.values())


@pytest.mark.parametrize(
    ("dtype", "unsigned"),
    [("float16", "u2"), (ml_dtypes.bfloat16, "u2"), ("float32", "u4"), ("float64", "u8"), ("complex128", "u8")],
)
def test_nan_payloads_come_back(path: Path, dtype: Any, unsigned: str) -> None:
    size = np.dtype(unsigned).itemsize
    exponent = {2: 0x7F80, 4: 0x7F800000, 8: 0x7FF0000000000000}[size]
    bits = np.array([exponent + 1, exponent + 0x55, (1 << (8 * size - 1)) + exponent + 3, exponent], unsigned)
    checkpoint.write(path, {"nan": bits.view(dtype)}, {})
    assert checkpoint.read(path)[0]["nan"].view(unsigned).tolist() == bits.tolist()


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["../x", "/etc/passwd", "a\\b", "..", ".", "a/./b", "a.npy", "\0", "a%2Fb", "schuss.json", "__float__"]
    ),
    st.sampled_from(["schuss.sha256", "C:\\x", "m['head.bias']", "x" * 5000, "\U0001f3bf" * 5000]),
)
METADATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
ARRAYS = hnp.arrays(
    st.sampled_from(["f2", "f4", "f8", "c8", "c16", "i8", "u1", "?"]), hnp.array_shapes(min_dims=0, min_side=0)
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(st.text(), METADATA, max_size=4))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_anything_comes_back(
    scratch: Path, suffix: str, arrays: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    path = scratch / f"any{suffix}"
    checkpoint.write(path, arrays, metadata)
    assert plain(checkpoint.read(path)) == plain((arrays, metadata))


def test_floats_come_back_exactly(path: Path) -> None:
    floats = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, np.float64(1) / 3]
    checkpoint.write(str(path), {}, {"floats": floats, "int": 2**4096 - 1, "true": True, "one": 1})
    metadata = checkpoint.read(str(path))[1]
    assert [struct.pack("<d", x) for x in metadata["floats"]] == [struct.pack("<d", x) for x in floats]
    assert metadata["int"] == 2**4096 - 1
    assert metadata["true"] is True
    assert metadata["one"] is not True


def test_the_same_content_is_the_same_file(path: Path) -> None:
    files = set()
    for _ in range(3):
        checkpoint.write(path, *SMALL)
        files.add(path.read_bytes())
    if path.suffix == ".npz":  # the safetensors library orders its metadata at random
        assert len(files) == 1


def test_a_large_array_takes_no_second_copy(path: Path) -> None:
    array = np.arange(1_000_000.0)
    tracemalloc.start()
    try:
        checkpoint.write(path, {"a": array}, {})
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        arrays, _ = checkpoint.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(arrays["a"], array)
    assert written < array.nbytes + 2_000_000
    assert peak < path.stat().st_size + 2_000_000


def test_other_tools_read_our_files(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "a.npz", *SMALL)
    with np.load(tmp_path / "a.npz") as npz:
        assert npz["m"].tolist() == [1.5, -0.0]
        assert npz["b"].view(ml_dtypes.bfloat16) == 1
        assert npz["z%2F%C3%A9"].tolist() == [1 + 2j]
        assert json.loads(npz["schuss.json"])["metadata"] == {"t": 7, "lr": {"__float__": "inf"}}
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())

    checkpoint.write(tmp_path / "a.safetensors", *SMALL)
    deserialize: Any = safetensors.deserialize
    tensors = dict(deserialize((tmp_path / "a.safetensors").read_bytes()))
    assert {name: (tensor["dtype"], tensor["shape"]) for name, tensor in tensors.items()} == {
        "m": ("F32", [2]),
        "b": ("BF16", []),
        "z/é": ("F64", [1, 2]),
    }


# ---- what cannot be written


@pytest.mark.parametrize("name", ["run.pt", "run", ".npz", "run.NPZ", "run.npz.gz"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    message = f"{tmp_path / name}: has the suffix {Path(name).suffix!r}; use .safetensors or .npz"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        checkpoint.write(tmp_path / name, {}, {})
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        checkpoint.read(tmp_path / name)


NOT_DTYPE = (
    "arrays['a'] has dtype {}; use one of bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, "
    "bfloat16, float32, float64, complex64, complex128 in native byte order"
)
NOT_NAME = "has a name that a checkpoint cannot hold; use at most 5000 characters of Unicode, and not '__metadata__'"
NOT_JSON = (
    "is of type {} and would not come back as it is; use None, bool, int of at most 4096 bits, float, str, list, "
    "or dict with keys that are str and not '__float__'"
)


@pytest.mark.parametrize(
    ("arrays", "metadata", "kind", "message"),
    [
        ({"a": np.array([object()])}, {}, TypeError, NOT_DTYPE.format("object")),
        ({"a": np.zeros(2, ">f4")}, {}, TypeError, NOT_DTYPE.format(">f4")),
        ({"a": np.zeros(2, "f4,f4")}, {}, TypeError, NOT_DTYPE.format("[('f0', '<f4'), ('f1', '<f4')]")),
        ({"a": np.array("x")}, {}, TypeError, NOT_DTYPE.format("<U1")),
        ({"a": np.zeros(2, "M8[s]")}, {}, TypeError, NOT_DTYPE.format("datetime64[s]")),
        ({"a": [1.0]}, {}, TypeError, "arrays['a'] is a list; give a dict of str to numpy.ndarray"),
        ({1: np.zeros(2)}, {}, TypeError, "arrays[1] is a ndarray; give a dict of str to numpy.ndarray"),
        ({"__metadata__": np.zeros(2)}, {}, ValueError, f"arrays['__metadata__'] {NOT_NAME}"),
        ({"\ud800": np.zeros(2)}, {}, ValueError, f"arrays['\\ud800'] {NOT_NAME}"),
        ({"x" * 5001: np.zeros(2)}, {}, ValueError, f"arrays['{'x' * 50}'] {NOT_NAME}"),
        ({}, {"a": [{"b": (1, 2)}]}, TypeError, f"metadata['a'][0]['b'] {NOT_JSON.format('tuple')}"),
        ({}, {"a": {1: 2}}, TypeError, f"metadata['a'] {NOT_JSON.format('dict')}"),
        ({}, {"a": {"__float__": "nan"}}, TypeError, f"metadata['a'] {NOT_JSON.format('dict')}"),
        ({}, {"a": np.float32(2)}, TypeError, f"metadata['a'] {NOT_JSON.format('float32')}"),
        ({}, {"a": 2**4096}, TypeError, f"metadata['a'] {NOT_JSON.format('int')}"),
        ({}, {"a": b""}, TypeError, f"metadata['a'] {NOT_JSON.format('bytes')}"),
    ],
)
def test_what_a_checkpoint_cannot_hold(path: Path, arrays: Any, metadata: Any, kind: type, message: str) -> None:
    checkpoint.write(path, *SMALL)
    with pytest.raises(kind, match=f"^{re.escape(f'{path}: {message}')}$"):
        checkpoint.write(path, arrays, metadata)
    assert plain(checkpoint.read(path)) == plain(SMALL)
    assert names(path.parent) == [path.name]


def test_nesting_has_a_limit(path: Path) -> None:
    deep: list[Any] = []
    for _ in range(63):
        deep = [deep]
    checkpoint.write(path, {}, {"a": deep})
    assert checkpoint.read(path)[1] == {"a": deep}
    with pytest.raises(ValueError, match=r"metadata\['a'\](\[0\])* is nested too deeply; use at most 64 levels$"):
        checkpoint.write(path, {}, {"a": [deep]})
    deep.append(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        checkpoint.write(path, {}, {"a": deep})


@pytest.mark.parametrize(
    ("suffix", "arrays", "metadata"),
    [
        (".npz", {}, {"a": "x" * 2000}),
        (".npz", {f"{'/' * 100}{i}": np.zeros(1) for i in range(10)}, {}),  # names that grow threefold in the directory
        (".safetensors", {}, {"a": "x" * 100_000_000}),
    ],
)
def test_an_index_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, arrays: Any, metadata: Any
) -> None:
    """What could not be read back is not written."""
    path = tmp_path / f"run{suffix}"
    checkpoint.write(path, *SMALL)
    monkeypatch.setattr(checkpoint, "_INDEX_LIMIT", 2000)  # in place of 100 MB; the safetensors library has its own
    message = r"cannot be written \(.*too large\); save fewer arrays or less metadata$"
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        checkpoint.write(path, arrays, metadata)
    assert plain(checkpoint.read(path)) == plain(SMALL)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (safetensors, "__version__", "0.7.0", "safetensors 0.7.0 is too old; pip install 'safetensors>=0.8'"),
        (sys.modules, "safetensors", None, "needs the library safetensors; pip install 'schuss[safetensors]'"),
    ],
)
def test_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: str | None, message: str
) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.write(path, *SMALL)
    with monkeypatch.context() as patch:
        if value is None:
            patch.setitem(module, name, value)
        else:
            patch.setattr(module, name, value)
        with pytest.raises(ImportError, match=f"^{re.escape(f'{path}: {message}')}$"):
            checkpoint.write(path, *OTHER)
        with pytest.raises(ImportError, match=f"^{re.escape(f'{path}: {message}')}$"):
            checkpoint.read(path)
        checkpoint.write(path.with_suffix(".npz"), *OTHER)  # which needs no library
    assert plain(checkpoint.read(path)) == plain(SMALL)


def test_bfloat16_without_ml_dtypes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(path, *SMALL)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=rf"^{path}: needs the library ml_dtypes; pip install 'schuss\[bfloat16\]'$"):
        checkpoint.read(path)
    checkpoint.write(path, *OTHER)
    assert plain(checkpoint.read(path)) == plain(OTHER)


# ---- the place of the file


def test_permissions_of_a_new_file_are_those_of_the_umask(path: Path) -> None:
    old = os.umask(0o027)
    try:
        checkpoint.write(path, *SMALL)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444, 0o200])
def test_permissions_of_an_old_file_are_kept(path: Path, mode: int) -> None:
    checkpoint.write(path, *OTHER)
    path.chmod(mode)
    checkpoint.write(path, *SMALL)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_symbolic_link_stays(path: Path) -> None:
    target = path.parent / "elsewhere" / f"target{path.suffix}"
    target.parent.mkdir()
    path.symlink_to(Path("elsewhere") / target.name)
    for content in (SMALL, OTHER):  # at first it dangles
        checkpoint.write(path, *content)
        assert path.is_symlink()
        assert plain(checkpoint.read(path)) == plain(checkpoint.read(target)) == plain(content)
    assert names(target.parent) == [target.name]


def test_a_loop_of_links(path: Path) -> None:
    path.symlink_to(path.name)
    with pytest.raises(OSError, match="symbolic links") as caught:
        checkpoint.write(path, *SMALL)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic links"):
        checkpoint.read(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    message = f"^{re.escape(str(path))}: is not a regular file; give the path of one$"
    before = path.lstat()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.write(path, *SMALL)
    assert os.path.samestat(path.lstat(), before)


def test_the_systems_refusals_pass_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.read(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.write(path.parent / "absent" / path.name, *SMALL)
    checkpoint.write(path, *SMALL)
    with pytest.raises(NotADirectoryError):
        checkpoint.write(path / path.name, *SMALL)

    def fail(self: object, size: object) -> None:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(checkpoint._Reader, "readinto" if path.suffix == ".npz" else "read", fail)
    with pytest.raises(OSError, match="the disk"):
        checkpoint.read(path)


# ---- a failing disk


@contextlib.contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 100, 2000, 40_000])
@pytest.mark.parametrize("old", [None, SMALL])
def test_a_full_disk(path: Path, old: Content | None, size: int) -> None:
    if old:
        checkpoint.write(path, *old)
    with limited(resource.RLIMIT_FSIZE, size), pytest.raises(OSError, match="File too large") as caught:
        checkpoint.write(path, *OTHER)
    assert caught.value.errno == errno.EFBIG
    assert names(path.parent) == ([path.name] if old else [])
    if old:
        assert plain(checkpoint.read(path)) == plain(old)


def test_too_many_open_files(path: Path) -> None:
    """Fail at the first file that is opened, the second and so on, until all can be."""
    checkpoint.write(path, *SMALL)
    free = os.dup(0)
    os.close(free)
    failures = 0
    for more in range(10):
        try:
            with limited(resource.RLIMIT_NOFILE, free + more):
                checkpoint.write(path, *OTHER)
        except OSError as error:
            failures += error.errno == errno.EMFILE
        else:
            break
        assert names(path.parent) == [path.name]
        assert plain(checkpoint.read(path)) == plain(SMALL)
    assert failures == more > 0
    assert plain(checkpoint.read(path)) == plain(OTHER)


class Failing:
    """A function that raises `error` after some calls."""

    def __init__(self, function: Callable[..., Any], calls: int, error: BaseException) -> None:
        self.function, self.calls, self.error = function, calls, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.calls == 0:
            raise self.error
        self.calls -= 1
        return self.function(*args, **options)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "fsync"), (os, "fchmod"), (os, "open"), (os, "rename"), (os, "replace"), (zipfile, "ZipFile")],
)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt("broken")])
def test_a_failing_call(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException
) -> None:
    """Fail at the first call, the second and so on, until none is left to fail."""
    outcomes = []
    for calls in range(10):
        checkpoint.write(path, *SMALL)
        failing = Failing(getattr(owner, name), calls, error)
        with monkeypatch.context() as patch, contextlib.suppress(type(error)):
            patch.setattr(owner, name, failing)
            checkpoint.write(path, *OTHER)
            outcomes.append("saved")
        assert names(path.parent) == [path.name]
        found = plain(checkpoint.read(path))
        if outcomes[-1:] == ["saved"]:
            assert found == plain(OTHER)
            break
        outcomes.append("old" if found == plain(SMALL) else "new" if found == plain(OTHER) else "neither")
    # The old file stays but for one call, which brings the directory to the disk after the replacement.
    used = outcomes.count("old") + outcomes.count("new")
    assert outcomes == ["old"] * (used - (name == "fsync")) + ["new"] * (name == "fsync") + ["saved"]
    assert used > 0 or name in ("rename", "ZipFile")  # which depend on the version of Python and the format


def test_the_file_is_flushed_before_and_the_directory_after_the_replacement(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(file: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        if events == ["file"]:  # complete by now
            assert os.fstat(file).st_size > OTHER[0]["m"].nbytes
        fsync(file)

    def rename(self: Path, target: Path) -> Path:
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    checkpoint.write(path, *OTHER)
    assert events == ["file", "replace", "directory"]


def test_two_writers_and_a_reader(path: Path) -> None:
    """The last complete file wins, and a reader sees one of them."""
    checkpoint.write(path, *SMALL)

    def save(content: Content) -> None:
        for _ in range(20):
            checkpoint.write(path, *content)

    writers = [threading.Thread(target=save, args=[content]) for content in (SMALL, OTHER)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert plain(checkpoint.read(path)) in (plain(SMALL), plain(OTHER))
    for writer in writers:
        writer.join()
    assert names(path.parent) == [path.name]


# ---- damage


def outcome(path: Path) -> object:
    """Return the content, or None for a CheckpointError; all else fails the test."""
    try:
        return plain(checkpoint.read(path))
    except CheckpointError:
        return None


def test_every_flipped_bit(path: Path) -> None:
    checkpoint.write(path, *SMALL)
    whole = path.read_bytes()
    found = []
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ (1 << bit)]), position)
                found.append(outcome(path))
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert plain(checkpoint.read(path)) == plain(SMALL)
    assert all(one in (None, plain(SMALL)) for one in found)
    # Harmless are flips in what only other readers look at (dates, checksums and .npy headers in a zip file).
    assert found.count(None) > 0.3 * len(found)


def test_every_truncation(path: Path) -> None:
    checkpoint.write(path, *SMALL)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        assert outcome(path) is None, size


def test_trailing_bytes(path: Path) -> None:
    checkpoint.write(path, *SMALL)
    whole = path.read_bytes()
    for trailing in (b"\0", b"x" * 22, whole):
        path.write_bytes(whole + trailing)
        refused(path, "damaged")


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 9),
            st.binary(max_size=9) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"PK\1\2"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_damage(scratch: Path, suffix: str, edits: list[tuple[float, int, bytes]]) -> None:
    path = scratch / f"damaged{suffix}"
    whole = scratch / f"whole{suffix}"
    if not whole.exists():
        checkpoint.write(whole, *SMALL)
    data = whole.read_bytes()
    for where, removed, added in edits:
        position = int(where * len(data))
        data = data[:position] + added + data[position + removed :]
    path.write_bytes(data)
    assert outcome(path) in (None, plain(SMALL))


# ---- hostile files, made by hand, whose digests agree


def record(arrays: object = (("a", "float32", [2]),), metadata: object = None, **more: object) -> str:
    return json.dumps({"format": 1, "metadata": metadata or {}, "arrays": arrays, **more})


DATA = struct.pack("<2f", 1, 2)
GOOD = plain(({"a": np.array([1, 2], np.float32)}, {}))


def npy(data: bytes = DATA, header: str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


MEMBERS = (("a.npy", npy()),)


def npz(
    text: str | bytes = record(),
    members: Sequence[tuple[str, bytes | str]] = MEMBERS,
    data: bytes = DATA,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        archive.writestr("schuss.json", raw)
        archive.writestr("schuss.sha256", hashlib.sha256(raw + data).hexdigest())
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


TENSOR = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


def tensors(header: str | bytes = TENSOR, data: bytes = DATA, text: str = record()) -> bytes:
    """Make a safetensors file with `header` beside the metadata, or with just that if it is bytes."""
    if isinstance(header, str):
        own = json.dumps({"schuss.json": text, "schuss.sha256": hashlib.sha256(text.encode() + data).hexdigest()})
        header = f'{{"__metadata__": {own}{", " if header else ""}{header}}}'.encode()
    return struct.pack("<Q", len(header)) + header + data


def test_files_made_by_hand_are_good(tmp_path: Path) -> None:
    """So that what follows is refused for its one fault."""
    for name, data in (("a.npz", npz()), ("a.safetensors", tensors())):
        (tmp_path / name).write_bytes(data)
        assert plain(checkpoint.read(tmp_path / name)) == GOOD


DEEP = "[" * 100_000 + "]" * 100_000


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Expecting value"),
        ("null", "NoneType"),
        ("[]", "list indices"),
        ("{}", "KeyError"),
        (record()[:-1], "Expecting"),
        (record() + " x", "Extra data"),
        ('{"format": 1, "format": 1, "metadata": {}, "arrays": [["a", "float32", [2]]]}', "a key is there twice"),
        (record(metadata={"a": math.nan}), "nan is not a number|NaN is not a number"),
        (record(metadata={"a": -math.inf}), "-Infinity is not a number"),
        (record(metadata={"a": 7}).replace("7", "1e999"), "1e999 is not a number"),
        (record(metadata={"a": 7}).replace("7", "7" * 5000), "digits"),
        (record(metadata={"a": 7}).replace("7", DEEP), "RecursionError"),
        (record(metadata={"a": nested(65)}), "its metadata are nested deeper than 64 levels"),
        (record(metadata=[1]), "schuss.json is not a record"),
        (record(more=1), "schuss.json is not a record"),
        (record(()), "'a' is not in schuss.json"),
        (record([["a", "float32", [2]], ["a", "float32", [2]]]), "KeyError"),
        (record([["b", "float32", [2]]]), "KeyError"),
        (record([["a", "object", [1]]]), "'a' has the unknown dtype 'object'"),
        (record([["a", "O", [1]]]), "'a' has the unknown dtype 'O'"),
        (record([["a", [["x", "O"]], [1]]]), "'a' has the unknown dtype"),
        (record([["a", "float32", [3]]]), r"'a' has 8 bytes, which are not float32 of shape \[3\]"),
        (record([["a", "float32", [2**62, 2**62, 2**10]]]), "'a' has 8 bytes"),
        (record([["a", "float32", [2**62, 4, 0]]]), "'a' has 8 bytes"),
        (record([["a", "float32", [-1]]]), "'a' has no shape"),
        (record([["a", "float32", [-1, -2]]]), "'a' has no shape"),
        (record([["a", "float32", [2.0]]]), "'a' has no shape"),
        (record([["a", "float32", [True, 2]]]), "'a' has no shape"),
        (record([["a", "float32", [2**63, 0]]]), "'a' has no shape"),
        (record([["a", "float32", "2"]]), "'a' has no shape"),
        (record([["a", "float32", {"2": 2}]]), "'a' has no shape"),
        (record([["a", "float32", [[2]]]]), "'a' has no shape"),
        (record([["a", "float32", None]]), "'a' has no shape"),
        (record([["a", "float32", [1] * 63 + [2] + [1] * 63]]), "'a' has no shape"),
        (record([["a", "float32"]]), "not enough values"),
        (record([[["a"], "float32", [2]]]), "unhashable"),
        (record({"a": ["float32", [2]]}), ""),
        (record(3), ""),
    ],
    ids=short,
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hostile_records(tmp_path: Path, suffix: str, text: str, what: str) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_bytes(npz(text) if suffix == ".npz" else tensors(text=text))
    damaged(path, what)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_zero_size_array_of_absurd_shape(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    text = record([["a", "float32", [2**62, 2**62, 0]]])
    header = '"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
    path.write_bytes(npz(text, [("a.npy", npy(b""))], b"") if suffix == ".npz" else tensors(header, b"", text))
    damaged(path, "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_newer_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    text = record(format=2)
    path.write_bytes(npz(text) if suffix == ".npz" else tensors(text=text))
    refused(path, f"^{path}: has format 2, but this schuss reads format 1; use a newer schuss$")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["a", "float32", "bfloat16", "object", "", "__float__"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "metadata", "__float__"]), inner),
    max_leaves=12,
)
ROWS = st.lists(
    st.tuples(
        st.just("a") | JSON,
        st.sampled_from(["float32", "uint8", "complex64"]) | JSON,
        st.lists(st.integers(-3, 8)) | JSON,
    )
    | JSON
)


@settings(max_examples=60, deadline=None)
@given(arrays=ROWS | JSON, metadata=st.just({}) | JSON)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_records(scratch: Path, suffix: str, arrays: object, metadata: object) -> None:
    """Nothing but a CheckpointError, or content that has the bytes of the file."""
    path = scratch / f"record{suffix}"
    text = record(arrays, metadata)
    path.write_bytes(npz(text) if suffix == ".npz" else tensors(text=text))
    try:
        found, _ = checkpoint.read(path)
    except CheckpointError:
        return
    assert [(name, a.tobytes()) for name, a in found.items()] == [("a", DATA)]


class Bomb:
    """Makes a file named `trace` when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "run.npz", tmp_path / "trace"
    np.savez(path, a=np.array([Bomb(trace)], object))
    damaged(path, "it does not hold schuss.json and schuss.sha256")
    code = pickle.dumps(np.array([Bomb(trace)], object))
    member = npy(code, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")
    path.write_bytes(npz(record([["a", "object", [1]]]), [("a.npy", member)], code))
    damaged(path, "'a' has the unknown dtype 'object'")
    path.write_bytes(npz(record([["a", "uint8", [len(code)]]]), [("a.npy", member)], code))
    assert checkpoint.read(path)[0]["a"].tobytes() == code  # mere bytes, if their owner says so
    path.write_bytes(code)
    damaged(path, "not a zip file")
    assert not trace.exists()
    pickle.loads(code)
    assert trace.exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not a zip file"),
        (b"PK\5\6" + bytes(18), "does not hold schuss.json"),
        (b"PK\5\6" + b"\xff" * 16 + bytes(2), ""),
        # the locator of a zip64 directory, and too little before it
        (b"PK\6\7" + bytes(12) + b"\1\0\0\0" + b"PK\5\6" + b"\xff" * 16 + bytes(2), ""),
        (bytes(56) + b"PK\6\7" + b"\xff" * 16 + b"PK\5\6" + b"\xff" * 16 + bytes(2), ""),
        (npz(compression=zipfile.ZIP_DEFLATED), "'schuss.json' is compressed"),
        (npz(compression=zipfile.ZIP_LZMA), "'schuss.json' is compressed"),
        (npz(members=[("a.npy", npy()), ("a.npy", npy())]), "a name is there twice"),
        (npz(members=[("a.npy", npy()), ("schuss.json", record())]), "a name is there twice"),
        (npz(members=[("../a.npy", npy())]), r"'\.\./a\.npy' is not the name of an array"),
        (npz(members=[("/a.npy", npy())]), r"'/a\.npy' is not the name of an array"),
        (npz(members=[("a", npy())]), "'a' is not the name of an array"),
        (npz(members=[("a%FF.npy", npy())]), "'a%FF.npy' is not the name of an array"),
        (npz(members=[("%61.npy", npy())]), "'%61.npy' is not the name of an array"),
        (npz(members=[]), "KeyError"),
        (npz(members=[("a.npy", npy()), ("b.npy", npy())]), "'b' is not in schuss.json"),
        (npz(members=[("a.npy", b"")]), "an array has no .npy header"),
        (npz(members=[("a.npy", b"\x93NUMPY\1\0\xff\xff" + DATA)]), "an array has no .npy header"),
        (npz(members=[("a.npy", npy().replace(b"Y\1", b"Y\2"))]), "an array has no .npy header"),
        (npz(members=[("a.npy", npy() + b"\0")]), "'a' has 9 bytes"),
        (npz(text=record().encode("utf-16")), "codec"),
        (npz(text=b"\xff" + record().encode()), "codec"),
        (npz(data=b"other"), "its SHA-256 does not agree"),
        (b"x" + npz(), "there is a gap or an overlap before 'schuss.json'"),
        (npz() + npz(), "there is a gap or an overlap before 'schuss.json'"),
        (npz() + b"\0", "there are bytes after the members or the archive"),
        (npz()[:-2] + b"\1\0x", "there are bytes after the members or the archive"),
    ],
    ids=short,
)
def test_hostile_npz(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "run.npz"
    path.write_bytes(data)
    damaged(path, what)


def directory_edited(edit: Callable[[bytearray, int], None]) -> bytes:
    """Edit the last entry of the zip directory of a good file; the offsets are those of the entry's layout."""
    data = bytearray(npz())
    edit(data, data.rindex(b"PK\1\2"))
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (42, struct.pack("<I", 0), "there is a gap or an overlap"),  # begins where another member begins
        (42, struct.pack("<I", 10), "there is a gap or an overlap"),
        (42, struct.pack("<I", 0xFFFFFFFF), ""),
        (20, struct.pack("<II", 2**31, 2**31), "there are bytes after the members"),
        (20, struct.pack("<II", 8, 2**31), "is compressed"),
        (24, struct.pack("<I", 0xFFFFFFFF), ""),
        (46, b"\0.npy", "is not the name of an array"),
        (46, b"\xffxxxx", ""),
    ],
)
def test_hostile_zip_directory(tmp_path: Path, offset: int, value: bytes, what: str) -> None:
    def edit(data: bytearray, entry: int) -> None:
        data[entry + offset : entry + offset + len(value)] = value

    path = tmp_path / "run.npz"
    path.write_bytes(directory_edited(edit))
    damaged(path, what)


def test_messages_quote_little_and_stay_on_one_line(path: Path) -> None:
    name = "a\nb" * 1000
    checkpoint.write(path, {name: np.zeros(2)}, {})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"float32", b"float33").replace(b"float64", b"float65"))
    refused(path, "is damaged")
    text = record(format=["x\n" * 1000])
    path.write_bytes(npz(text) if path.suffix == ".npz" else tensors(text=text))
    refused(path, "has format")
    text = record(metadata={"a": 7}).replace("7", "7" * 100_000 + "e99999")
    path.write_bytes(npz(text) if path.suffix == ".npz" else tensors(text=text))
    refused(path, "is not a number|is damaged")


def test_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    size = 50_000_000
    text = record([["a", "uint8", [size]]])
    path.write_bytes(npz(text, [("a.npy", npy(bytes(size)))], bytes(size), zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 100_000
    damaged(path, "is compressed")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "header too small"),
        (struct.pack("<Q", 2**63) + b"{}", "header too large"),
        (struct.pack("<Q", 99_000_000) + b"{}", ""),
        (tensors(b"{}", b""), "does not hold schuss.json"),
        (tensors(b'{"a":' + DEEP.encode() + b"}"), "recursion limit"),
        (tensors(b"\xff"), "utf-8|UTF-8"),
        (tensors("", b"", record(())) + DATA, "not fully covered"),
        (tensors(TENSOR.replace("[2]", "[NaN]")), "JSON"),
        (tensors(TENSOR.replace("[2]", f"[{'9' * 5000}]")), "JSON"),
        (tensors(TENSOR.replace("[2]", f"[{2**62}, {2**62}, 4]")), "overflow"),
        (tensors(TENSOR.replace("[0, 8]", "[4, 12]"), DATA + b"1234"), "invalid offset"),
        (tensors(f"{TENSOR}, {TENSOR.replace('a', 'b', 1)}"), "invalid offset"),
        (tensors(f"{TENSOR}, {TENSOR}"), "a key is there twice"),
        (tensors(TENSOR[:-1] + ', "x": {"y": 1, "y": 1}}'), "a key is there twice"),
        (tensors(f'{TENSOR}, "__metadata__": {{}}'), "duplicate"),
        (tensors(TENSOR.replace("F32", "F31")), "F31"),
        (tensors(TENSOR.replace("F32", "F8_E8M0").replace("[2]", "[8]")), ""),
        (tensors(TENSOR.replace("[2]", "[3]")), ""),
        (tensors(TENSOR[:-1] + ', "x": 1e999}'), "number"),
        (tensors() + b"\0", "not fully covered"),
        (tensors()[:-1], ""),
    ],
    ids=short,
)
def test_hostile_safetensors(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(data)
    damaged(path, what)


def test_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, path)
    damaged(path, "it does not hold schuss.json and schuss.sha256")


def test_claimed_sizes_are_not_believed(tmp_path: Path) -> None:
    """A directory of a million entries for one member costs what is read of it, not what it claims."""
    path = tmp_path / "run.npz"
    data = npz()
    entry = data.rindex(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    entries = data[entry:end] * 2000
    start = data.index(b"PK\1\2")
    path.write_bytes(
        data[:start] + entries + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 2000, 2000, len(entries), start, 0)
    )
    damaged(path, "a name is there twice")

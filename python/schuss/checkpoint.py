"""Named arrays and metadata in one file: written whole or not at all, read without trust.

A checkpoint is an ordinary ``.safetensors`` or ``.npz`` file, which other tools can open. It holds the arrays, a
record, and a digest. The record is JSON: the number of the format, the caller's metadata, and the name, dtype and shape
of every array in order. The digest is the SHA-256 of the record followed by the arrays' bytes in that order. The reader
returns what the record describes, and only if the digest agrees: whatever befell the rest of the file, the content is
what was written, or there is an error.

This module knows nothing of optimizers.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib
import json
import math
import os
import re
import stat
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

__all__ = ["CheckpointError", "read", "write"]

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
Texts = dict[str, str]
Fetchers = dict[str, Callable[[], Bytes]]
Content = tuple[Texts, Fetchers]

_FORMAT = 1
_RECORD, _DIGEST = "schuss.json", "schuss.sha256"
_INDEX_LIMIT = 100_000_000  # bytes of a record, zip directory or header; the safetensors library's limit, taken for all
_NAME_LIMIT = 5000  # characters, of up to 12 bytes each once percent-encoded; a name in a zip file has at most 65,535
_DEPTH_LIMIT = 64  # of metadata; Python's JSON parser gives up somewhere below 1000
_RANK_LIMIT = 64  # of arrays; NumPy's
_INT_BITS = 4096  # of integers in metadata; the parser gives up at 4300 digits
_FLOAT = "__float__"  # JSON has no inf and nan; they become {"__float__": "inf"}
_ABANDONED = 86_400.0  # seconds without a write, after which a directory left by another machine is abandoned
_NONFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


class CheckpointError(ValueError):
    """A file is no checkpoint or a damaged one, or cannot be made one."""


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, object]) -> None:
    """Write a checkpoint, so that at every moment the file is the old or the new one.

    The content goes to a file in a temporary directory ``.schuss-*.tmp`` beside `path`, is flushed to the disk, and
    takes the place of `path`. After an error the temporary directory is gone and the old file is as it was; only if the
    very last call fails, which flushes the directory, is the file the new one. A killed process leaves its temporary
    directory behind; the next checkpoint that is written beside it removes it (after a day, if it was left by another
    machine, or before this one was started anew). One that is in use is locked, and stays.

    Where `path` is a symbolic link, the link stays and its target is replaced. An existing file's permissions are kept;
    a new file has those that the umask gives.

    Parameters
    ----------
    path : str or os.PathLike
        Ends in ``.safetensors`` (which needs the safetensors library) or ``.npz``.
    arrays : mapping of str to ndarray
        Arrays of booleans, integers, floats, complex numbers or `ml_dtypes.bfloat16`, in native byte order and any
        layout. They must not change meanwhile.
    metadata : mapping of str to object
        None, bool, int, float (also inf and nan), str, and lists and dicts of these. Tuples are refused: they would
        come back as lists.

    Raises
    ------
    CheckpointError
        If `path` has another suffix or is not a regular file, or names and metadata are too long to be read back.
    TypeError, ValueError
        If a checkpoint cannot hold one of the arrays or metadata.
    ImportError
        If the safetensors library is needed and missing.
    OSError
        If the system refuses.
    """
    path = Path(path)
    write_container, _ = _container(path)
    for name, array in arrays.items():
        _check_array(path, name, array)
    shapes = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
    values = _encode(dict(metadata), f"{path}: metadata")
    record = json.dumps({"format": _FORMAT, "metadata": values, "arrays": shapes})
    digest = hashlib.sha256(record.encode())
    for array in arrays.values():
        digest.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    with _replacing(path) as temporary:
        try:
            write_container(temporary, {_RECORD: record, _DIGEST: digest.hexdigest()}, arrays)
        except ValueError as error:
            raise CheckpointError(f"{path}: cannot be written ({error}); save fewer arrays or less metadata") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a checkpoint, which may come from anywhere.

    Nothing in the file is run or unpickled. Memory is bounded by the size of the file, plus what an index of at most
    100 MB takes once it is parsed (a hostile one: up to 26 times its size).

    Parameters
    ----------
    path : str or os.PathLike
        A regular file, or a link to one, that ends in ``.safetensors`` or ``.npz``.

    Returns
    -------
    arrays : dict of str to ndarray
        New, writable, C-contiguous arrays in the order in which they were written.
    metadata : dict
        The metadata as it was written.

    Raises
    ------
    CheckpointError
        If the file is not a checkpoint just as it was written.
    ImportError
        If the safetensors library or ml_dtypes is needed and missing.
    OSError
        If the system refuses.
    """
    path = Path(path)
    _, read_container = _container(path)
    _check_regular(path, path.stat())
    try:
        # O_NONBLOCK: should it have become a FIFO since, do not wait for its writer
        with _Reader(FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))) as file:
            texts, fetchers = read_container(path, file)
            if texts.keys() != {_RECORD, _DIGEST}:
                raise ValueError(f"it does not hold {_RECORD} and {_DIGEST}")
            return _content(path, texts[_RECORD], texts[_DIGEST], fetchers)
    except (CheckpointError, ImportError, MemoryError):
        raise
    except Exception as error:  # parsers fail in many ways on bytes that were made to fail them; all mean the same
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL is a seek to nowhere
            raise
        what = " ".join(str(error if isinstance(error, ValueError) else repr(error)).split())[
            :200
        ]  # it may quote the file
        raise CheckpointError(
            f"{path}: is damaged or not a checkpoint of schuss ({what}); restore it from a copy"
        ) from error


def _content(path: Path, text: str, digest: str, fetchers: Fetchers) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what the record describes, if the digest agrees."""
    record = _parse(text)
    if record["format"] != _FORMAT:
        raise CheckpointError(
            f"{path}: has format {record['format']!r:.20}, but this schuss reads format {_FORMAT}; use a newer schuss"
        )
    if record.keys() != {"format", "metadata", "arrays"} or not isinstance(record["metadata"], dict):
        raise ValueError(f"{_RECORD} is not a record")
    _check_depth(record["metadata"])
    actual = hashlib.sha256(text.encode())
    arrays: dict[str, Array] = {}
    for name, kind, shape in record["arrays"]:
        if kind not in _DTYPES:
            raise ValueError(f"{name!r} has the unknown dtype {kind!r}")
        if not isinstance(shape, list) or len(shape) > _RANK_LIMIT or not all(map(_is_length, shape)):
            raise ValueError(f"{name!r} has no shape")
        dtype = np.dtype(_library(path, "ml_dtypes", "bfloat16").bfloat16 if kind == "bfloat16" else kind)
        data = fetchers.pop(name)()
        if data.nbytes != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} has {data.nbytes} bytes, which are not {kind} of shape {shape}")
        actual.update(data.data)
        arrays[name] = data.view(dtype).reshape(shape)
    if fetchers:
        raise ValueError(f"{min(fetchers)!r} is not in {_RECORD}")
    if actual.hexdigest() != digest:
        raise ValueError("its SHA-256 does not agree")
    return arrays, record["metadata"]


class _Reader(BufferedReader):
    """A file that gives no more at once than an index may have, whatever size a hostile file claims.

    A longer index arrives cut off, which its parser refuses. Arrays are read by `readinto`, of sizes that were checked.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(os.fstat(self.fileno()).st_size - self.tell(), 0)  # what is asked for is allocated, there or not
        return super().read(min(_INDEX_LIMIT, rest, rest if size is None or size < 0 else size))


def _write_npz(path: Path, texts: Texts, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)
        for name, array in arrays.items():
            # .npy has no name for bfloat16
            array = np.asarray(array.view(np.uint16) if array.dtype.name == "bfloat16" else array, order="C")
            with archive.open(zipfile.ZipInfo(_member_name(name)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
    if max(len(texts[_RECORD]), path.stat().st_size - archive.start_dir) > _INDEX_LIMIT:
        raise ValueError("index too large")


def _read_npz(path: Path, file: _Reader) -> Content:
    texts: Texts = {}
    fetchers: Fetchers = {}
    with zipfile.ZipFile(file) as archive:
        members, directory = archive.infolist(), archive.start_dir
    if len({member.filename for member in members}) != len(members):
        raise ValueError("a name is there twice")
    end = 0  # of the members so far, which must tile the file: nothing overlaps, expands or hides between them
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{member.filename!r} is compressed")
        if member.header_offset != end:
            raise ValueError(f"there is a gap or an overlap before {member.filename!r}")
        file.seek(end + 26)
        start = end + 30 + sum(struct.unpack("<HH", file.read(4)))  # the lengths of the local name and extra field
        end = start + member.file_size
        name = unquote(member.filename.removesuffix(".npy"))
        if member.filename in (_RECORD, _DIGEST):
            file.seek(start)
            texts[name] = file.read(member.file_size).decode("ascii")
        elif member.filename == _member_name(name):
            fetchers[name] = functools.partial(_read_npy, file, start, member.file_size)
        else:
            raise ValueError(f"{member.filename!r} is not the name of an array")
    file.seek(-22, os.SEEK_END)
    if end != directory or file.read(4) != b"PK\5\6":
        raise ValueError("there are bytes after the members or the archive")
    return texts, fetchers


def _read_npy(file: _Reader, start: int, size: int) -> Bytes:
    # The header is for other readers: here the record has dtype and shape, and no Python literal needs to be parsed.
    file.seek(start)
    head = file.read(10)
    skip = 10 + int.from_bytes(head[8:], "little")
    if head[:8] != b"\x93NUMPY\1\0" or skip > size:
        raise ValueError("an array has no .npy header")
    file.seek(start + skip)
    data = np.empty(size - skip, np.uint8)
    if file.readinto(data.data) != data.nbytes:
        raise ValueError("the file is cut off")
    return data


def _member_name(name: str) -> str:
    """Percent-encode what could make a path or mislead a zip reader; ordinary names stay readable."""
    return quote(name, safe=" ()[]',=") + ".npy"


def _write_safetensors(path: Path, texts: Texts, arrays: Mapping[str, Array]) -> None:
    library = _library(path, "safetensors.numpy", "safetensors")
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in stored.items():
        if array.dtype == np.complex128:  # which the format lacks: pairs of float64
            stored[name] = array.reshape(*array.shape, 1).view(np.float64)
    with _system_errors(path):
        library.save_file(stored, path, texts)


def _read_safetensors(path: Path, file: _Reader) -> Content:
    with _system_errors(path):
        # pread: a file that shrinks under a memory map kills the process
        tensors = _library(path, "safetensors", "safetensors").safe_open(path, "numpy", backend="pread")
    _parse(file.read(int.from_bytes(file.read(8), "little")).decode())  # of equal keys the library takes the last

    def fetch(name: str) -> Bytes:
        with _system_errors(path):
            data: Bytes = tensors.get_tensor(name).reshape(-1).view(np.uint8)
        return data

    return tensors.metadata() or {}, {name: functools.partial(fetch, name) for name in tensors.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raise the system's errors as such, which the safetensors library hides in the text of its own."""
    try:
        yield
    except _library(path, "safetensors", "safetensors").SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)( at path .*)?$", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise ValueError(error) from error


_CONTAINERS = {".safetensors": (_write_safetensors, _read_safetensors), ".npz": (_write_npz, _read_npz)}


def _container(
    path: Path,
) -> tuple[Callable[[Path, Texts, Mapping[str, Array]], None], Callable[[Path, _Reader], Content]]:
    """Return the functions that write and read such a file: texts, and arrays or what fetches their bytes."""
    if path.suffix not in _CONTAINERS:
        raise CheckpointError(f"{path}: has the suffix {path.suffix!r}; use .safetensors or .npz")
    if path.suffix == ".safetensors":
        version = _library(path, "safetensors", "safetensors").__version__
        if tuple(map(int, version.split(".")[:2])) < (0, 8):  # the first that reads without a memory map
            raise ImportError(f"{path}: safetensors {version} is too old; pip install 'safetensors>=0.8'")
    return _CONTAINERS[path.suffix]


def _library(path: Path, name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise ImportError(
            f"{path}: needs the library {library}; pip install 'schuss[{extra}]'", name=library
        ) from error


def _check_array(path: Path, name: object, array: object) -> None:
    if not isinstance(name, str) or not isinstance(array, np.ndarray):
        raise TypeError(f"{path}: arrays[{name!r}] is a {type(array).__name__}; give a dict of str to numpy.ndarray")
    if name == "__metadata__" or len(name) > _NAME_LIMIT or re.search("[\ud800-\udfff]", name):
        raise ValueError(
            f"{path}: arrays[{name[:50]!r}] has a name that a checkpoint cannot hold; "
            f"use at most {_NAME_LIMIT} characters of Unicode, and not '__metadata__'"
        )
    if array.dtype.name not in _DTYPES or not array.dtype.isnative:
        raise TypeError(
            f"{path}: arrays[{name!r}] has dtype {array.dtype}; use one of {', '.join(_DTYPES)} in native byte order"
        )


def _encode(value: object, where: str, depth: int = 0) -> object:
    """Refuse what would not come back from JSON as it is, and encode inf and nan."""
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"{where} is nested too deeply; use at most {_DEPTH_LIMIT} levels")
    if value is None or isinstance(value, str) or (isinstance(value, int) and value.bit_length() <= _INT_BITS):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, list):
        return [_encode(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and _decode([*value.items()]) == value:
        return {key: _encode(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    raise TypeError(
        f"{where} is of type {type(value).__name__} and would not come back as it is; use None, bool, int of at most "
        f"{_INT_BITS} bits, float, str, list, or dict with keys that are str and not {_FLOAT!r}"
    )


def _check_depth(value: object, depth: int = 0) -> None:
    """Refuse what `write` would not have written, before anyone goes down into it."""
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"its metadata are nested deeper than {_DEPTH_LIMIT} levels")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(each, depth + 1)


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _parse(text: str) -> Any:
    """Parse JSON, strictly: Python's parser takes NaN, 1e999 and equal keys."""
    return json.loads(text, object_pairs_hook=_decode, parse_float=_finite, parse_constant=_finite)


def _decode(pairs: list[tuple[str, Any]]) -> object:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        raise ValueError("a key is there twice")
    if decoded.keys() == {_FLOAT} and isinstance(decoded[_FLOAT], str):
        return _NONFINITE.get(decoded[_FLOAT], decoded)
    return decoded


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a number")
    return value


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: is not a regular file; give the path of one")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file, which takes the place of `path` at the end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        permissions = None
    else:
        _check_regular(path, status)
        permissions = stat.S_IMODE(status.st_mode)
    path = path.resolve()  # not to replace a symbolic link
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with _workspace(path.parent) as folder:
            temporary = folder / f"new{path.suffix}"
            # Made here, since not every writer gives a new file the permissions of the umask.
            temporary.touch(0o666 if permissions is None else permissions | stat.S_IRUSR | stat.S_IWUSR, exist_ok=False)
            if permissions is None:
                permissions = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb") as file:
                os.fchmod(file.fileno(), permissions)
                os.fsync(file.fileno())
            temporary.replace(path)
            os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _workspace(parent: Path) -> Iterator[Path]:
    """Give a locked directory of our own for temporary files, after removing those that killed processes left behind."""
    _tidy(parent)
    while True:
        folder = Path(tempfile.mkdtemp(".tmp", f".schuss-{_kernel()}-", parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # tidied away by another process before it was locked
            continue
        except BaseException:
            folder.rmdir()
            raise
        with contextlib.suppress(OSError):  # not every file system has locks, but then nobody gets this one
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(handle)
    try:
        yield folder
    finally:
        _remove(folder, handle)
        os.close(handle)


def _tidy(parent: Path) -> None:
    """Remove the temporary directories whose lock nobody holds.

    Locks may not reach other machines that share the file system. What was not made since this one was started is kept
    until nobody has written to it for a day.
    """
    with contextlib.suppress(OSError):
        for folder in parent.glob(".schuss-*.tmp"):
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    times = [os.stat(name, dir_fd=handle).st_mtime for name in os.listdir(handle)]  # noqa: PTH208
                    idle = time.time() - max([os.fstat(handle).st_mtime, *times])
                    if folder.name.startswith(f".schuss-{_kernel()}-") or idle > _ABANDONED:
                        _remove(folder, handle)
                finally:
                    os.close(handle)


def _remove(folder: Path, handle: int) -> None:
    """Remove a temporary directory and the files in it, as far as the system lets us."""
    with contextlib.suppress(OSError):
        for name in os.listdir(handle):
            os.unlink(name, dir_fd=handle)
    with contextlib.suppress(OSError):
        folder.rmdir()


@functools.cache
def _kernel() -> str:
    """Return what tells this run of this machine's system from others: within it, locks are seen by all."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "unknown"

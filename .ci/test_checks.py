"""The checks of vectorization.py, symbols.py, wheel.py and links.py can fail: each is shown a fault, and what is clean."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import links
import pytest
import symbols
import vectorization
import wheel

FLAGS = (
    f"{vectorization.RECORD} -std=c++20 -O3 -fopenmp-simd -fno-math-errno -fno-trapping-math -fPIC -fvisibility=hidden "
    "-mprefer-vector-width=512"
)
CLANG = "clang++-19"
LOOP = """
namespace {
template <class T> [[gnu::noinline]] void sweep(T* p, const T* g, long n) {
    #pragma omp simd
    for (long i = 0; i < n; ++i) {
        BODY
    }
}
}  // namespace
extern "C" void run(float* p, const float* g, double* q, const double* h, long n) { sweep(p, g, n); sweep(q, h, n); }
"""


def build(folder: Path, source: str, march: str, compiler: str = "g++") -> str:
    """Compile one source as a build directory of its own and return that directory."""
    (folder / "unit.cpp").write_text(source)
    flags = FLAGS if compiler == "g++" else FLAGS.replace(vectorization.RECORD, vectorization.CLANG_RECORD)
    command = f"{compiler} {flags} -march={march} -o unit.o -c unit.cpp"
    entry = {"directory": str(folder), "file": "unit.cpp", "command": command}
    (folder / "compile_commands.json").write_text(json.dumps([entry]))
    subprocess.run(command.split(), cwd=folder, check=True)
    return str(folder)


@pytest.mark.parametrize("march", vectorization.WIDTH)
@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("p[i] = p[i] - T(0.5) * g[i];", 0, "2 instances of 1 loops"),
        ("p[i + 1] = p[i] + g[i];", 1, "missed"),  # needs the element before
        ("p[i] = __builtin_fmod(p[i], g[i]);", 1, "missed"),  # no vector form
        ("p[i] = 0;", 1, "0 reported"),  # becomes a call of memset
    ],
)
def test_vectorization(
    body: str, code: int, says: str, march: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert vectorization.main(build(tmp_path, LOOP.replace("BODY", body), march)) == code
    assert says in capfd.readouterr().out


@pytest.mark.skipif(not shutil.which(CLANG), reason="Clang is not installed")
@pytest.mark.parametrize("march", vectorization.WIDTH)
@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("p[i] = p[i] - T(0.5) * g[i];", 0, "2 instances of 1 loops"),
        ("p[i] = other(g[i]);", 1, "missed"),  # no vector form
        ("(void)g[i];", 1, "nothing was checked"),  # no loop is left
    ],
)
def test_vectorization_by_clang(
    body: str, code: int, says: str, march: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = 'extern "C" double other(double);\n' + LOOP.replace("BODY", body)
    assert vectorization.main(build(tmp_path, source, march, CLANG)) == code
    assert says in capfd.readouterr().out


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('extern "C" double run(double x) { return x; }', ""),
        ('extern "C" double run(double x) { return x; } double two() { return 2; }', "2 global symbols"),
        ("template <class T> [[gnu::noinline]] T own(T x) { return x; } template int own(int);", "own<int>"),
        ('extern "C" int run() { static int n; return ++n; }', ".bss"),
        ("int f(); static int n = f(); int run() { return n; }", ".init_array"),
        ("double run(double x, double y) { return __builtin_fma(x, y, y); }", "vfmadd"),
    ],
)
def test_symbols(source: str, says: str, tmp_path: Path) -> None:
    folder = build(tmp_path, source, "x86-64-v3")
    found = [fault for check in (symbols.isolated, symbols.fused) for fault in check(Path(folder, "unit.o"))]
    assert any(says in fault for fault in found) if says else not found


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("-Wl,-z,execstack", "executable stack"),
        ("-Wl,-rpath,/", "RUNPATH"),
        ("-Wl,-z,norelro", "no RELRO"),
        ("-Wl,-z,lazy", "no BIND_NOW"),
    ],
)
def test_linked(flag: str, says: str, tmp_path: Path) -> None:
    build(tmp_path, '[[gnu::visibility("default")]] int extra() { return 1; }', "x86-64")
    subprocess.run(["g++", "-shared", flag, "unit.o", "-o", "unit.so"], cwd=tmp_path, check=True)
    found = list(symbols.linked(tmp_path / "unit.so"))
    assert any(says in fault for fault in found)
    assert any("extra" in fault for fault in found)


def test_dead_links(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    good = '<a href="b.html#there"></a><a href="https://example.org/none"></a><a href="#here" id="here"></a>'
    (tmp_path / "a.html").write_text(good)
    assert links.dead(tmp_path) == []
    (tmp_path / "a.html").write_text(good + '<a href="c.html"></a><a href="b.html#gone"></a><img src="none.png">')
    assert links.dead(tmp_path) == [
        "a.html: c.html is not there",
        "a.html: b.html#gone has no such anchor",
        "a.html: none.png is not there",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"schuss/_core.so": "unit.o"}, "not stripped"),
        ({"schuss/_core.so": b"built in " + str(Path(wheel.__file__).parents[1]).encode()}, "where it was built"),
        ({"schuss/_core.so": bytes(wheel.MOST + 1)}, "more than"),
        ({"schuss/other.so": b""}, "it has schuss/other.so"),
        ({"schuss.libs/libgomp-1.so": b""}, "it has schuss.libs/libgomp-1.so"),
        ({"schuss/_core.cpython-311-darwin.so": b""}, "2 extension modules"),
        ({"schuss/py.typed": None}, "it lacks schuss/py.typed"),
        ({"METADATA": b"Name: schuss\nVersion: 9"}, "version is 9"),
    ],
)
def test_wheel(change: dict[str, bytes | str | None], says: str, tmp_path: Path) -> None:
    info = f"schuss-{wheel.PROJECT['version']}.dist-info/"
    metadata = {
        "Name": "schuss",
        "Version": wheel.PROJECT["version"],
        "License-Expression": wheel.PROJECT["license"],
        "Requires-Dist": wheel.PROJECT["dependencies"][0],
    }
    files: dict[str, bytes | str | None] = {
        f"{info}METADATA": "\n".join(f"{key}: {value}" for key, value in metadata.items()).encode(),
        f"{info}licenses/LICENSE": b"",
        "schuss/__init__.py": b"",
        "schuss/_core.pyi": b"",
        "schuss/_core.so": b"",
        "schuss/py.typed": b"",
    }
    files |= {f"{info}METADATA" if name == "METADATA" else name: content for name, content in change.items()}
    build(tmp_path, "int run() { return 1; }", "x86-64")
    with zipfile.ZipFile(tmp_path / "schuss.whl", "w") as archive:
        for name, content in files.items():
            if isinstance(content, str):
                content = (tmp_path / content).read_bytes()
            if content is not None:
                archive.writestr(name, content)
    found = list(wheel.wheel(tmp_path / "schuss.whl"))
    assert any(says in fault for fault in found) if says else not found

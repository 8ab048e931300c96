"""What an installed package needs and does besides stepping: nothing but NumPy, no network, no file but those it is given."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from interpreters import STRICT, output

import schuss

ROOT = Path(__file__).parents[1]

#: Steps every optimizer of the package, most wrappers, and what evaluates functions.
ALL = """
import importlib
import pkgutil

import numpy as np
import schuss

for module in pkgutil.walk_packages(schuss.__path__, "schuss."):
    if module.name != "schuss.__main__":
        importlib.import_module(module.name)

def use_all():
    for cls in schuss.optimizers().values():
        params = [np.ones((4, 3), np.float32), np.ones(3)]
        optimizer = cls(params, clip=schuss.ClipNorm(1.0))
        extra = {key: [p.copy() for p in params] for key in optimizer._kernel()["inputs"]}
        optimizer.step([p.copy() for p in params], **extra, **dict.fromkeys(optimizer.given, 1.0))
        optimizer.load_state_dict(optimizer.state_dict())
    for cls in schuss.closure_optimizers().values():
        cls(np.ones(2))
    schuss.minimize(lambda x: (float(x @ x), 2 * x), np.ones(3))
    around = schuss.EMA(schuss.Accumulate(schuss.SGD({"w": np.ones(3)}, lr=schuss.schedules.cosine(0.1, steps=9)), steps=2))
    around.step({"w": np.ones(3)})
    return around
"""


def test_numpy_alone_is_enough(tmp_path: Path) -> None:
    """Every module is imported and every optimizer steps where no other package can be imported."""
    block = """
    import sys

    class Blocked:
        others = {"ml_dtypes", "safetensors", "scipy", "matplotlib", "sklearn", "torch", "jax", "numba", "threadpoolctl"}

        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name.split(".")[0] in cls.others:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocked)
    """
    use = """
    use_all().save(sys.argv[1] + "/run.npz")
    print(sorted(Blocked.others & {name.split(".")[0] for name in sys.modules}))
    """
    for flags in (STRICT, ("-OO",)):
        assert output(dedented(block) + ALL + dedented(use), tmp_path, flags=flags) == "[]\n"


def test_no_network_no_process_and_no_file_but_those_given(tmp_path: Path) -> None:
    """Audited by the interpreter: what opens a file to write, a socket, a process or a library of code."""
    watch = """
    import os
    import sys

    seen = []
    QUIET = ("os.listdir", "os.scandir", "os.getxattr")

    def watch(event, arguments):
        kind = event.split(".")[0]
        if event == "open":
            path, mode, flags = arguments
            if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                seen.append((event, str(path)))
        elif kind in ("os", "shutil", "tempfile") and event not in QUIET:
            seen.append((event, *(str(each) for each in arguments if isinstance(each, str | os.PathLike))))
        elif kind in ("socket", "subprocess", "ctypes", "urllib", "ftplib", "http", "pickle", "pty"):
            seen.append((event,))

    import numpy as np
    import numpy.linalg
    sys.addaudithook(watch)
    """
    use = """
    around = use_all()
    schuss.show_runtime()
    print(seen)
    path = sys.argv[1] + "/run.npz"
    around.save(path, params=True)
    around.load(path)
    print(sorted({event[0] for event in seen if event[0].split(".")[0] not in ("open", "os", "shutil", "tempfile")}))
    print([each for event in seen for each in event[1:] if not each.startswith(sys.argv[1])])
    """
    said = output(dedented(watch) + ALL + dedented(use), tmp_path, PYTHONDONTWRITEBYTECODE="1").splitlines()
    assert said[0].startswith("schuss ")  # show_runtime
    assert said[-3:] == ["[]", "[]", "[]"]
    assert [each.name for each in tmp_path.iterdir()] == ["run.npz"]


def test_the_environment_names_no_code() -> None:
    """Of the environment the package reads two numbers of threads and the name of an instruction set."""
    code = """
    import os
    import sys

    asked = set()
    real = type(os.environ).__getitem__

    def asking(self, key):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] in ("os", "collections.abc"):
            frame = frame.f_back
        if frame.f_globals["__name__"].startswith("schuss"):
            asked.add(key)
        return real(self, key)

    type(os.environ).__getitem__ = asking
    """
    use = """
    use_all()
    print(sorted(asked))
    """
    said = output(dedented(code) + ALL + dedented(use))
    assert said == "['OMP_NUM_THREADS', 'SCHUSS_ISA', 'SCHUSS_NUM_THREADS']\n"


def dedented(code: str) -> str:
    return "\n".join(line[4:] for line in code.splitlines()) + "\n"


def test_one_version() -> None:
    """What is installed, the compiled part and the page of changes agree with the one place that says it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert schuss.__version__ == importlib.metadata.version("schuss") == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_citation_says_what_the_project_says() -> None:
    """And leaves out what changes with every release."""
    said = dict(re.findall(r"^(\S+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert said["license"] == project["license"]
    assert said["title"].strip('"').startswith(f"{project['name']}: ")
    assert not {"version", "date-released"} & said.keys()
    assert [author["name"] for author in project["authors"]] == re.findall(
        r"^  - name: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )

"""Fail if valgrind finds an invalid access, a use of what was never written, or a leak of the compiled part.

Usage: memcheck.py [steps]

With the word it steps optimizers of all kinds, else it runs valgrind on itself. Of what valgrind reports, only what has a
frame of the extension counts: the interpreter's own reports say nothing of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def step_all_kinds() -> None:
    import numpy as np

    import schuss

    rng = np.random.default_rng(1)

    def tree(dtype: str, threads: int) -> dict[str, Any]:
        shapes = {"w": (9, 7), "none": (0, 7), "b": (13,), "s": ()} | ({"large": (260, 150)} if threads > 1 else {})
        return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}

    makers: list[Any] = [
        schuss.AdamW,
        schuss.AdamMini,
        lambda params, **further: schuss.LAMB(params, clip=schuss.ClipNorm(0.1), **further),
        schuss.Prodigy,
        schuss.Muon,
        schuss.Adafactor,
        lambda params, **further: schuss.Adam(params, l1=0.1, l2=0.1, bounds=(-1.0, 1.0), nonfinite="skip", **further),
        lambda params, **further: schuss.Lookahead(schuss.EMA(schuss.SGD(params, lr=0.1, momentum=0.9, **further))),
    ]
    for make in makers:
        for dtype, threads in (("float32", 2), ("float64", 1), ("float16", 1)):
            optimizer = make(tree(dtype, threads), threads=threads)
            for number in range(2):
                grads = tree("float64" if number else dtype, threads)
                optimizer.step({name: grad[::-1] if grad.ndim else grad for name, grad in grads.items()})


def reports(file: Path) -> Iterator[str]:
    """Yield what valgrind says of the extension."""
    for error in ET.parse(file).getroot().iter("error"):
        kind = error.findtext("kind", "")
        frames = [(frame.findtext("obj", ""), frame.findtext("fn", "?")) for frame in error.iter("frame")]
        if kind.startswith("Leak_") and kind != "Leak_DefinitelyLost":
            continue
        if any("_core." in name for name, _ in frames):
            what = error.findtext("what") or error.findtext("xwhat/text", "")
            yield "\n    ".join([f"{kind}: {what}", *(function for _, function in frames)])


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "valgrind.xml"
        command = ["valgrind", "--quiet", "--leak-check=full", "--num-callers=40", "--xml=yes", f"--xml-file={file}"]
        environment = os.environ | {"PYTHONMALLOC": "malloc", "OMP_WAIT_POLICY": "passive"}
        subprocess.run([*command, sys.executable, __file__, "steps"], env=environment, check=True)
        found = list(reports(file))
    print(*found, f"{len(found)} reports", sep="\n")
    return bool(found)


if __name__ == "__main__":
    if sys.argv[1:] == ["steps"]:
        step_all_kinds()
    else:
        sys.exit(main())

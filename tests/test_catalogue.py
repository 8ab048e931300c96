"""The catalogue: `python -m schuss`, and the page that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import CLASSES

import schuss
from schuss import catalogue
from schuss.__main__ import main

PAGE = Path(__file__).resolve().parents[1] / "docs" / "catalogue.md"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_optimizer_has_a_source(cls: type[schuss.Optimizer]) -> None:
    """Authors, year and title, or where it was published if that was no paper."""
    entry = catalogue.describe(cls)
    source = entry.source
    assert entry.summary.endswith(".")
    assert "\n" not in entry.summary
    if source.year is None:
        assert source.link
    else:
        assert 1950 < source.year < 2030
        assert len(source.title) > 10
        assert source.authors[0].isupper()
        assert str(source) == f"{source.authors} ({source.year})"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_state_is_what_it_is(cls: type[schuss.Optimizer]) -> None:
    p = np.zeros((1000, 1000), np.float32)
    assert catalogue.describe(cls).state_bytes == pytest.approx(cls(p).nbytes / p.size, abs=0.005)


@pytest.mark.skipif(not PAGE.parent.is_dir(), reason="the sources are not beside the tests")
def test_the_page_is_current() -> None:
    assert PAGE.read_text() == catalogue.markdown(), "run python -m schuss --markdown > docs/catalogue.md"


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--elements", "1e2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"schuss {schuss.__version__}")
    lines = shown.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(schuss.optimizers())
    assert "steps/s at 100" in lines[0]
    assert main(["--elements", "0"]) == 0
    assert "steps/s" not in capsys.readouterr().out


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--elements", "100"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runtime"]["instruction_set"] in schuss.instruction_sets()
    assert found["elements"] == 100
    assert [row["name"] for row in found["optimizers"]] == list(schuss.optimizers())
    assert all(row["steps_per_second"] > 0 for row in found["optimizers"])


@pytest.mark.parametrize("wrong", ["-1", "1.5", "nan", "many", "1e11"])
def test_a_wrong_number_of_elements(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--elements={wrong}"])
    assert f"must be a whole number up to 1e10, got '{wrong}'" in capsys.readouterr().err

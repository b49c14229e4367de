"""The types of the public functions are those of the settings and records that there are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import tilesegment
from tests.fakes import save_fake, use
from tests.test_merge import Bright
from tilesegment.api.typed import (
    GridPlan,
    PredictOptions,
    RunPlan,
    RunRecord,
    VectorizeOptions,
    VectorOptions,
)
from tilesegment.settings import (
    PredictSettings,
    VectorizeSettings,
    VectorSettings,
    options_of,
)


def names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - {"vector"}


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (VectorOptions, names(VectorSettings)),
        (PredictOptions, names(PredictSettings) | names(VectorSettings)),
        (VectorizeOptions, names(VectorizeSettings) | names(VectorSettings)),
    ],
)
def test_options_are_the_settings(options: Any, settings: set[str]) -> None:
    assert set(options.__annotations__) | set(get_type_hints(options)) == settings
    assert options.__required_keys__ == frozenset()


def test_every_setting_is_declared() -> None:
    """With its help, and without it there is no option: not one is forgotten."""
    for kind in (PredictSettings, VectorSettings):
        assert set(options_of(kind)) == names(kind)
        assert all(option.help.endswith(".") for option in options_of(kind).values())


def fits(value: Any, kind: Any) -> None:
    """The keys of a mapping are those that its type documents."""
    required, optional = kind.__required_keys__, kind.__optional_keys__
    assert required <= set(value) <= required | optional


def test_records_and_plans_have_the_documented_keys(
    make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    model = save_fake(tmp_path / "m.safetensors")
    scene = make_raster(np.full((3, 64, 64), 200, np.uint8))
    for name, optional in (("a.gpkg", {"polygons"}), ("a.tif", set())):
        record = tilesegment.predict(scene, tmp_path / name, model=model)
        fits(record, RunRecord)
        assert set(record) & RunRecord.__optional_keys__ == optional
        fits(record["plan"], RunPlan)
        fits(record["plan"]["grid"], GridPlan)
    planned = tilesegment.plan(scene, model=model)
    fits(planned, RunPlan)
    assert "seconds" in planned


def test_a_checker_of_types_sees_a_wrong_name(tmp_path: Path) -> None:
    script = tmp_path / "use.py"
    script.write_text(
        "import tilesegment\n"
        "tilesegment.predict('a.tif', 'a.gpkg', min_area='3px', tile=512, model=['roofs'])\n"
        "reveal_type(tilesegment.predict('a.tif', 'a.gpkg')['plan']['grid']['height'])\n"
        "tilesegment.predict('a.tif', 'a.gpkg', min_aera=3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(script)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert any('use.py:3: note: Revealed type is "int"' in line or "builtins.int" in line for line in lines)
    assert [line for line in lines if ": error:" in line and "use.py:4" in line], done.stdout
    assert not [line for line in lines if "use.py:2" in line]

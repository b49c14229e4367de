"""The house rules, read off the code: imports point down, and some libraries have one room."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tilesegment.train.config import bundled_configs

PACKAGE = Path(__file__).parent.parent / "tilesegment"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top of the house to its ground; a room may import from its own floor and those below.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"run", "train"},
    {"report", "interop"},
    {"evaluate", "datasets"},
    {"raster", "model", "vector"},
    {"tiling"},
    {"settings", "checked", "grid", "polygons", "atomic", "errors"},
]
# On one floor, only these look at a neighbour.
NEIGHBOURS = {("vector", "model"), ("raster", "model")}
# Built from parts that lie beside the package.
CONFIGS = PACKAGE.parent / "configs"
ONLY = {
    "distributed": {"run/scene/executor.py"},
    "dask": {"run/scene/executor.py"},
    "click": {"cli/"},
    "torch": {
        "model/build.py",
        "model/anywhere.py",
        "model/pretrained.py",
        "model/export.py",
        "model/sharing.py",
        "model/engines/torch.py",
        "train/",
    },
    "albumentations": {"train/augment.py"},
    "accelerate": {"train/processes.py"},
    "matplotlib": {"train/plots.py"},
    "cv2": {"datasets/drawn/", "datasets/outlining.py"},
    "scipy": {"datasets/buildings.py", "datasets/mixing.py", "evaluate/", "vector/instances.py"},
    "pycocotools": {"datasets/coco.py"},
    "openvino": {"model/export.py", "model/sharing.py", "model/quantize.py", "model/engines/openvino.py"},
    "nncf": {"model/quantize.py"},
    "segmentation_models_pytorch": {"model/build.py", "train/losses.py"},
    "torchvision": {"model/build.py", "model/hub.py"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(k for k, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path, top_level: bool = False) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        if not name.startswith("tilesegment."):
            continue
        there = name.split(".")[1]
        if here == there:
            continue
        assert floor(there) >= floor(here), f"{path}: {name} lies above"
        if floor(there) == floor(here):
            assert (here, there) in NEIGHBOURS or floor(here) == len(FLOORS) - 1, f"{path}: {name}"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_has_its_room(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users or library == "dask"
    assert all(any(user.startswith(allowed) for allowed in ONLY[library]) for user in users), users


def test_rasters_are_opened_in_one_room() -> None:
    for path in FILES:
        if room(path) != "raster":
            assert "rasterio.open" not in path.read_text(), path


def test_nothing_is_unpickled_and_no_input_is_asserted() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
        # The name of what torch raises is no unpickler.
        harmless = ast.unparse(ast.parse("from pickle import UnpicklingError"))
        named = {n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)}
        code = "\n".join(text for node in named if (text := ast.unparse(node)) != harmless)
        assert not re.search(r"\b(pickle|joblib|shelve|marshal)\b", code), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert ast.unparse(node).endswith("weights_only=True)"), path


def test_every_package_and_configuration_is_installed() -> None:
    listed = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    found = {
        ".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")
    }
    assert sorted({*found, "tilesegment.configs", "tilesegment.model.weights"}) == sorted(listed)
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(bundled_configs())

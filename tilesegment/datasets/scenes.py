"""Rooftop scenes: large GeoTIFFs with a vector file of footprints, windows drawn on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from tilesegment.datasets.sample import IGNORE, SPLITS, Sample
from tilesegment.datasets.tiles import CLASSES
from tilesegment.errors import SettingsError
from tilesegment.grid import Window
from tilesegment.model.card import ModelClass
from tilesegment.raster.aoi import read_polygons, region_of
from tilesegment.raster.source import Scene, open_scene
from tilesegment.settings import nearest


@dataclass(frozen=True)
class Place:
    """A scene, the footprints in it, and the polygon of what was really labelled (None: all of it)."""

    scene: str
    footprints: str
    labelled: str | None
    split: str


@dataclass(frozen=True)
class SceneReader:
    """The `Reader` of scenes.

    Training windows are drawn at random, `windows` an epoch, each scene as often as its area asks for;
    validation and test go through a fixed lattice. Footprints are burnt in on the very grid that the
    pixels are read on; pixels outside what was labelled, and invalid ones, are ignored.
    """

    classes: tuple[ModelClass, ...]
    places: tuple[Place, ...]
    size: tuple[int, int]
    windows: int
    gsd: float | None
    fixed: dict[str, tuple[tuple[int, Window], ...]]
    notes: tuple[str, ...] = field(default=())

    def names(self, split: str) -> Sequence[str]:
        """See `Reader`."""
        if split == "train":
            return [f"window {k}" for k in range(self.windows if self._of("train") else 0)]
        return [f"{Path(self.places[k].scene).stem}-{w.row}-{w.col}" for k, w in self.fixed[split]]

    def read(self, split: str, index: int, rng: np.random.Generator | None) -> Sample:
        """See `Reader`."""
        if split != "train":
            number, window = self.fixed[split][index]
        else:
            number, window = self._drawn(rng if rng is not None else np.random.default_rng(index))
        place = self.places[number]
        opened = _opened(place, self.gsd)
        pixels = opened.scene.read(window)
        label = opened.burnt(window)
        return Sample(pixels.values, np.where(pixels.valid, label, np.uint8(IGNORE)), pixels.valid)

    def _of(self, split: str) -> list[int]:
        return [k for k, place in enumerate(self.places) if place.split == split]

    def _drawn(self, rng: np.random.Generator) -> tuple[int, Window]:
        numbers = self._of("train")
        regions = [_opened(self.places[k], self.gsd).region for k in numbers]
        areas = np.array([region.area for region in regions], np.float64)
        chosen = int(rng.choice(len(numbers), p=areas / areas.sum()))
        region, (rows, cols) = regions[chosen], self.size
        row = region.row + int(rng.integers(0, max(1, region.height - rows + 1)))
        col = region.col + int(rng.integers(0, max(1, region.width - cols + 1)))
        return numbers[chosen], Window(row, col, rows, cols)


class _Opened:
    """A scene with its footprints in pixel coordinates, in an index."""

    def __init__(self, place: Place, gsd: float | None) -> None:
        self.scene: Scene = open_scene(place.scene, gsd=gsd)
        grid = self.scene.grid
        self.footprints = read_polygons(place.footprints, grid)
        self.tree = shapely.STRtree(self.footprints)
        self.labelled = (
            None if place.labelled is None else shapely.union_all(read_polygons(place.labelled, grid))
        )
        self.region = grid.window if self.labelled is None else region_of(self.labelled, grid)

    def burnt(self, window: Window) -> NDArray[np.uint8]:
        """The label of a window: 1 where a pixel's centre lies in a footprint."""
        shape = (window.height, window.width)
        box = shapely.box(window.col, window.row, window.col_end, window.row_end)

        def burn(geometries: NDArray[Any]) -> NDArray[np.uint8]:
            if not len(geometries):
                return np.zeros(shape, np.uint8)
            moved = shapely.transform(geometries, lambda xy: xy - [window.col, window.row])
            return np.asarray(rasterize(((g, 1) for g in moved), shape, dtype="uint8"), np.uint8)

        label = burn(self.footprints[np.sort(self.tree.query(box))])
        if self.labelled is not None:
            label[burn(np.array([self.labelled])) == 0] = IGNORE
        return label


@lru_cache(maxsize=8)
def _opened(place: Place, gsd: float | None) -> _Opened:
    return _Opened(place, gsd)


def open_scenes(
    root: Path,
    *,
    scenes: Sequence[dict[str, str]],
    size: tuple[int, int],
    gsd: float | None = None,
    windows: int = 1000,
) -> SceneReader:
    """Scenes named in the configuration, paths relative to root.

    scenes: of each `scene`, `footprints` (any CRS), perhaps `labelled` (a polygon of what was labelled) and
    `split` (train by default). gsd: metres a pixel to read at. windows: training windows an epoch.
    Raises InputError, SettingsError.
    """
    known = ("scene", "footprints", "labelled", "split")
    places = []
    for entry in scenes:
        for key in entry:
            if key not in known:
                raise SettingsError(f"data.scenes: unknown key {key!r}{nearest(key, known)}")
        if "scene" not in entry or "footprints" not in entry:
            raise SettingsError("data.scenes: every entry needs a scene and its footprints")
        if entry.get("split", "train") not in SPLITS:
            raise SettingsError(f"data.scenes: split {entry['split']!r} is none of {', '.join(SPLITS)}")
        labelled = entry.get("labelled")
        places.append(
            Place(
                str(root / entry["scene"]),
                str(root / entry["footprints"]),
                None if labelled is None else str(root / labelled),
                entry.get("split", "train"),
            )
        )
    fixed: dict[str, tuple[tuple[int, Window], ...]] = {}
    for name in ("val", "test"):
        chosen = [(k, place) for k, place in enumerate(places) if place.split == name]
        fixed[name] = tuple(
            (k, w) for k, place in chosen for w in _lattice(_opened(place, gsd).region, size)
        )
    return SceneReader(CLASSES, tuple(places), size, windows, gsd, fixed)


def _lattice(region: Window, size: tuple[int, int]) -> list[Window]:
    return [
        Window(row, col, *size)
        for row in range(region.row, region.row_end, size[0])
        for col in range(region.col, region.col_end, size[1])
    ]

"""Real scenes and odd files, with the bundled model."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes
from shapely.affinity import affine_transform
from shapely.geometry import shape

import tilesegment
from tilesegment.errors import InputError

# What each odd file must lead to: words of the refusal, or None for a result.
ODD: dict[str, str | None] = {
    "cogeotiff_be_cog.tiff": None,  # big-endian, 64 pixels, no CRS
    "cogeotiff_model_transformation.tif": "its pixels are 10 m",  # 64 int8 bands
    "cogeotiff_rgba8_strip.tiff": None,
    "deepness_dummy_fotomap_small.tif": None,  # 0.02 m: read down to 112 x 166
    "empty.tif": "the file is empty",
    "gray1.tif": None,
    "not_a_tiff.tif": "not a raster",
    "rasterio_RGBA.byte.tif": "its pixels are 300 m",
    "rgb_bigtiff_bigendian.tif": None,
    "rgb_cmyk.tif": None,
    "rgb_float32_nan.tif": None,
    "rgb_nocrs.tif": None,
    "rgb_rotated15.tif": None,
    "rgb_sheared.tif": None,
    "rgb_southup.tif": None,
    "rio-tiler_cog_gcps.tif": "its pixels are 203 m",
    "rio-tiler_pix4d_alpha_nodata.tif": None,
    "solaris_sample_geotiff.tif": None,
    "torchsat_tiff_3channel_uint16.tif": None,
    "truncated.tif": "damaged, rows",
}
# Billions of pixels, nearly all of them empty: half a minute and more each.
HUGE: dict[str, str | None] = {"cogeotiff_sparse.tiff": "no valid pixel", "rgb_sparse_huge.tif": None}


def check_odd(data: Path, tmp_path: Path, name: str, refusal: str | None) -> None:
    source = data / "odd" / name
    outputs = {"mask": tmp_path / "m.tif", "overlay": tmp_path / "o.png"}
    if refusal is not None:
        with pytest.raises(InputError, match=refusal) as caught:
            tilesegment.predict(source, tmp_path / "r.gpkg", **outputs)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
        return
    record = tilesegment.predict(source, tmp_path / "r.gpkg", **outputs)
    frame = geopandas.read_file(tmp_path / "r.gpkg")
    assert len(frame) == record["counts"]["polygons"]
    assert frame.geometry.is_valid.all()
    with rasterio.open(source) as scene, rasterio.open(tmp_path / "m.tif") as mask:
        assert mask.shape == (record["plan"]["grid"]["height"], record["plan"]["grid"]["width"])
        assert (mask.read(1) != 255).sum() == record["counts"]["valid_pixels"]
        corner = mask.transform @ (mask.width, mask.height)
        assert corner == pytest.approx(scene.transform @ (scene.width, scene.height), rel=1e-9)


@pytest.mark.parametrize("name", ODD)
def test_odd_files_work_or_are_refused_in_one_line(data: Path, tmp_path: Path, name: str) -> None:
    check_odd(data, tmp_path, name, ODD[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_huge_empty_files(data: Path, tmp_path: Path, name: str) -> None:
    check_odd(data, tmp_path, name, HUGE[name])


def test_every_odd_file_is_tested(data: Path) -> None:
    assert {path.name for path in (data / "odd").iterdir()} == ODD.keys() | HUGE.keys()


def test_a_south_up_scene_has_its_roofs_in_the_right_places(data: Path, tmp_path: Path) -> None:
    """The same rows of pixels with north up: the same roofs, mirrored about the scene's middle line."""
    source = data / "odd" / "rgb_southup.tif"
    with rasterio.open(source) as dataset:
        bottom, top = sorted((dataset.bounds.bottom, dataset.bounds.top))
        profile, pixels = dataset.profile, dataset.read()
        step = dataset.transform
    assert step.e > 0
    turned = Affine(step.a, 0, step.c, 0, -step.e, top)
    with rasterio.open(tmp_path / "north.tif", "w", **(profile | {"transform": turned})) as dataset:
        dataset.write(pixels)
    found = []
    for path in (source, tmp_path / "north.tif"):
        out = tmp_path / f"{path.stem}.gpkg"
        tilesegment.predict(path, out)
        found.append(geopandas.read_file(out, layer=path.stem).union_all())
    south, north = found
    mirrored = affine_transform(north, [1, 0, 0, -1, 0, bottom + top])
    assert south.area > 20
    assert south.symmetric_difference(mirrored).area < 0.01 * south.area


def roof_iou(scene: Path, labels: Path, tmp_path: Path) -> float:
    tilesegment.predict(scene, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask = dataset.read(1)
        truth = geopandas.read_file(labels).to_crs(dataset.crs).geometry
        known = rasterize(truth, out_shape=mask.shape, transform=dataset.transform)
    found = mask == 1
    return float((found & (known == 1)).sum() / (found | (known == 1)).sum())


def test_the_bundled_model_finds_roofs_where_it_was_not_trained(data: Path, tmp_path: Path) -> None:
    scenes = data / "scenes"
    iou = roof_iou(scenes / "philippines_epsg3857.tif", scenes / "philippines_buildings.gpkg", tmp_path)
    assert iou > 0.55


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        # A dense town, a quarter of it nodata; a village in a rotated footprint.
        ("banepa_utm45n_uint16_4band_nodata0.tif", 0.2, 0.7),
        ("zanzibar_utm37s_rgba_alpha.tif", 0.03, 0.5),
    ],
)
def test_sixteen_bits_and_alpha_give_sensible_roofs(
    data: Path, tmp_path: Path, name: str, least: float, most: float
) -> None:
    record = tilesegment.predict(data / "scenes" / name, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask = dataset.read(1)
    assert least < (mask == 1).sum() / (mask != 255).sum() < most
    assert record["counts"]["valid_pixels"] < 0.99999 * mask.size


def test_joined_polygons_are_those_of_the_whole_mask(data: Path, tmp_path: Path) -> None:
    """On a real town, cut into bands of rows by the tracer."""
    source = data / "scenes" / "banepa_epsg4326.tif"
    exact = {"min_area": 0, "simplify": 0, "fill_holes": 0, "split": "none"}
    tilesegment.predict(source, tmp_path / "r.gpkg", mask=tmp_path / "m.tif", **exact)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask, transform = dataset.read(1), dataset.transform
    frame = geopandas.read_file(tmp_path / "r.gpkg")
    expected = [shape(g) for g, _ in shapes(mask, mask == 1, connectivity=4)]
    assert len(frame) == len(expected) > 100
    inverse = ~transform

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return np.rint(np.column_stack(inverse @ (points[:, 0], points[:, 1])))

    mine = shapely.transform(frame.geometry.to_numpy(), to_pixels)
    theirs = {shapely.normalize(g).wkt for g in map(shapely.make_valid, expected)}
    differing = [g for g in mine if shapely.normalize(g).wkt not in theirs]
    rest = shapely.union_all(
        [shapely.from_wkt(w) for w in theirs - {shapely.normalize(g).wkt for g in mine}]
    )
    assert shapely.symmetric_difference(shapely.union_all(differing), rest).area == 0

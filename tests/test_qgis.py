"""Other programs open what is written: QGIS, GDAL's own commands, DuckDB. Those that are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image

import tilesegment

EXAMPLES = Path(__file__).parent.parent / "examples"
SYSTEM_PYTHON = "/usr/bin/python3"
# Debian's wrapper adds an option that the program itself refuses.
QGIS_PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
NEEDS_QGIS = pytest.mark.skipif(QGIS_PROCESS is None, reason="needs QGIS")
NEEDS_GDAL = pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="needs GDAL's commands")
pytestmark = pytest.mark.slow


def call(*words: object, cwd: Path | None = None, home: Path | None = None) -> str:
    variables = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    if home is not None:
        variables |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every output of a real scene."""
    folder = tmp_path_factory.mktemp("results")
    scene = data / "scenes" / "zanzibar_utm37s_rgba_alpha.tif"
    for name in ("roofs.gpkg", "roofs.fgb", "roofs.parquet", "roofs.shp", "roofs.geojson"):
        tilesegment.predict(scene, folder / name)
    tilesegment.predict(scene, folder / "mask.tif", cog=True)
    tilesegment.predict(scene, folder / "picture.png")
    return folder


RENDER = """
import json, os, sys
from pathlib import Path
from qgis.core import *
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtCore import QSize
application = QgsApplication([], False)
application.initQgis()
folder, scene = Path(sys.argv[1]), sys.argv[2]
told = {}
layers = {}
for name in ("roofs.gpkg", "roofs.fgb", "roofs.shp", "roofs.geojson", "roofs.parquet"):
    layer = QgsVectorLayer(str(folder / name), name, "ogr")
    layers[name] = layer
    told[name] = {
        "valid": layer.isValid(), "count": layer.featureCount(), "crs": layer.crs().authid(),
        "fields": [field.name() for field in layer.fields()],
        "renderer": layer.renderer().type() if layer.isValid() else None,
    }
layer = layers["roofs.gpkg"]
told["categories"] = [
    [str(c.value()), c.label(), c.symbol().color().name()] for c in layer.renderer().categories()
]
mask = QgsRasterLayer(str(folder / "mask.tif"), "mask")
told["mask"] = {
    "valid": mask.isValid(), "renderer": mask.renderer().type(),
    "classes": [[c.value, c.label, c.color.name()] for c in mask.renderer().classes()],
}
picture = QgsRasterLayer(scene, "scene")
settings = QgsMapSettings()
settings.setLayers([layer, picture])
settings.setDestinationCrs(picture.crs())
settings.setExtent(picture.extent())
settings.setOutputSize(QSize(900, 900))
settings.setBackgroundColor(QColor("white"))
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(str(folder / "qgis.png"))
print("TOLD" + json.dumps(told), flush=True)
# Layers that outlive the application crash it.
os._exit(0)
"""


@NEEDS_QGIS
def test_qgis_opens_everything(results: Path, data: Path, tmp_path: Path) -> None:
    scene = data / "scenes" / "zanzibar_utm37s_rgba_alpha.tif"
    (tmp_path / "render.py").write_text(RENDER)
    out = call(SYSTEM_PYTHON, tmp_path / "render.py", results, scene, home=tmp_path)
    told = json.loads(out.partition("TOLD")[2].splitlines()[0])
    count = len(geopandas.read_parquet(results / "roofs.parquet"))
    assert count >= 5
    for name in ("roofs.gpkg", "roofs.fgb", "roofs.shp", "roofs.geojson"):
        crs = "OGC:CRS84" if name == "roofs.geojson" else "EPSG:32737"
        assert (told[name]["valid"], told[name]["count"]) == (True, count)
        assert told[name]["crs"] in (crs, "EPSG:4326" if crs.startswith("OGC") else crs)
        assert "class" in told[name]["fields"]
    # The style that the file carries.
    assert told["roofs.gpkg"]["renderer"] == "categorizedSymbol"
    assert told["categories"][0] == ["roof", "roof", "#00c8ff"]
    assert told["mask"]["renderer"] == "paletted"
    assert [1, "roof", "#00c8ff"] in told["mask"]["classes"]
    # Outlines in the class's colour lie on the picture.
    drawn = np.asarray(Image.open(results / "qgis.png").convert("RGB")).astype(int)
    assert (np.abs(drawn - (0, 200, 255)).max(axis=2) < 40).sum() > 500
    assert drawn.reshape(-1, 3).std(axis=0).min() > 20


@NEEDS_QGIS
def test_the_script_in_the_toolbox(results: Path, data: Path, tmp_path: Path) -> None:
    scripts = tmp_path / ".local/share/QGIS/QGIS3/profiles/default/processing/scripts"
    scripts.mkdir(parents=True)
    shutil.copy(EXAMPLES / "qgis" / "tilesegment_roofs.py", scripts)
    program = Path(sys.executable).parent / "tilesegment"
    call(QGIS_PROCESS, "plugins", "enable", "processing", home=tmp_path)
    scene = data / "scenes" / "philippines_epsg3857.tif"
    out = call(
        QGIS_PROCESS, "run", "script:roofs", "--", "TASK=0", f"INPUT={scene}", "MODEL=roofs",
        "MIN_AREA=4", "OPTIONS=--split none", f"PROGRAM={program}", f"OUTPUT={tmp_path / 'roofs.gpkg'}",
        f"MASK={tmp_path / 'mask.tif'}", home=tmp_path,
    )  # fmt: skip
    assert "100" in out
    record = tilesegment.predict(scene, tmp_path / "expected.gpkg", min_area=4, split="none")
    found = geopandas.read_file(tmp_path / "roofs.gpkg", layer="roofs")
    assert len(found) == record["counts"]["polygons"]
    call(
        QGIS_PROCESS, "run", "script:roofs", "--", "TASK=1", f"INPUT={tmp_path / 'mask.tif'}",
        f"PROGRAM={program}", f"OUTPUT={tmp_path / 'again.gpkg'}", home=tmp_path,
    )  # fmt: skip
    assert len(geopandas.read_file(tmp_path / "again.gpkg", layer="again")) >= 10
    failing = subprocess.run(
        [QGIS_PROCESS, "run", "script:roofs", "--", f"INPUT={scene}", "PROGRAM=/no/such/program",
         f"OUTPUT={tmp_path / 'no.gpkg'}"],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert failing.returncode != 0
    assert "No such file or directory; install it, or name it" in failing.stdout + failing.stderr


CANCEL = """
import os, sys
sys.path.insert(0, sys.argv[1])
from qgis.core import *
application = QgsApplication([], False)
application.initQgis()
from tilesegment_roofs import Roofs

class Feedback(QgsProcessingFeedback):
    seen = []

    def setProgress(self, progress):
        self.seen.append(progress)
        self.cancel()

context, feedback = QgsProcessingContext(), Feedback()
layer = QgsRasterLayer(sys.argv[2], "scene")
algorithm = Roofs().create()
parameters = {"INPUT": layer, "OUTPUT": sys.argv[3], "PROGRAM": sys.argv[4], "OPTIONS": "--tile 128"}
results, good = algorithm.run(parameters, context, feedback)
print(feedback.textLog())
print("TOLD", len(feedback.seen), good, flush=True)
os._exit(0)
"""


@NEEDS_QGIS
def test_a_cancelled_run_stops_and_goes_on(data: Path, tmp_path: Path) -> None:
    scene = data / "scenes" / "banepa_epsg3857_jpeg.tif"
    out, program = tmp_path / "roofs.gpkg", Path(sys.executable).parent / "tilesegment"
    (tmp_path / "cancel.py").write_text(CANCEL)
    begin = time.monotonic()
    told = call(
        SYSTEM_PYTHON, tmp_path / "cancel.py", EXAMPLES / "qgis", scene, out, program, home=tmp_path
    )
    assert "TOLD" in told
    assert "Traceback" not in told
    assert time.monotonic() - begin < 60
    assert not out.exists()
    assert "stopped" in told


@NEEDS_GDAL
def test_gdals_own_commands(results: Path, tmp_path: Path) -> None:
    count = len(geopandas.read_parquet(results / "roofs.parquet"))
    for name in ("roofs.gpkg", "roofs.fgb", "roofs.shp", "roofs.geojson"):
        out = call("ogrinfo", "-al", "-so", results / name)
        assert f"Feature Count: {count}" in out
        assert "class: String" in out
    told = json.loads(call("gdalinfo", "-json", results / "mask.tif"))
    (band,) = told["bands"]
    assert (band["type"], band["colorInterpretation"], band["noDataValue"]) == ("Byte", "Palette", 255.0)
    assert told["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert band["colorTable"]["entries"][1] == [0, 200, 255, 255]
    call("gdal_translate", "-q", "-of", "COG", results / "mask.tif", tmp_path / "again.tif")
    with rasterio.open(results / "mask.tif") as one, rasterio.open(tmp_path / "again.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.colormap(1) == other.colormap(1)
        assert (one.crs, one.transform, one.nodata) == (other.crs, other.transform, other.nodata)


def test_rio_says_that_masks_are_cloud_optimised(results: Path) -> None:
    cogeo = pytest.importorskip("rio_cogeo", reason="needs rio-cogeo")
    valid, errors, warnings = cogeo.cog_validate(results / "mask.tif")
    assert (valid, errors, warnings) == (True, [], [])


def test_duckdb_reads_a_place_of_geoparquet(results: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs DuckDB")
    frame = geopandas.read_parquet(results / "roofs.parquet")
    middle = frame.union_all().centroid
    query = (
        f"SELECT count(*), sum(area_m2) FROM '{results / 'roofs.parquet'}' "  # noqa: S608 - of ours
        f"WHERE bbox.xmin <= {middle.x} AND bbox.ymin <= {middle.y}"
    )
    ((count, area),) = duckdb.sql(query).fetchall()
    inside = (frame.bounds["minx"] <= middle.x) & (frame.bounds["miny"] <= middle.y)
    assert (count, area) == (inside.sum(), pytest.approx(frame.loc[inside, "area_m2"].sum()))
    assert 0 < count < len(frame)

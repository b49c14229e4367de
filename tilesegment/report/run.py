"""A run as a page that a person likes to look at."""

from __future__ import annotations

import html
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from tilesegment.errors import OutputError
from tilesegment.report.html import bars, page, picture, told


def write_report(path: Path, record: dict[str, Any], overview: Image.Image) -> None:
    """Write one self-contained HTML page: a picture, counts, areas, confidences, what it took, settings,
    warnings. record: of the run. Raises OutputError."""
    plan, counts, seconds = record["plan"], record["counts"], record["seconds"]
    parts = [f'<p class="warning">{html.escape(line)}</p>' for line in record["warnings"]]
    parts.append(picture(overview, plan["input"], "JPEG"))
    metres = plan["grid"]["metres_per_pixel"]
    rows: list[tuple[str, object]] = []
    found = record.get("polygons")
    if found is not None:
        rows.append(("polygons", f"{counts['polygons']:,}"))
        for name, its in found["by_class"].items():
            area = "" if metres is None else f", {its['area_m2']:,.0f} m²"
            rows.append((name, f"{its['polygons']:,} polygons{area}"))
    valid = counts["valid_pixels"]
    if metres is not None:
        ground = valid * metres[0] * metres[1]
        rows.append(("ground that was seen", f"{ground / 1e6:,.3f} km²"))
        if found is not None and ground:
            covered = sum(its["area_m2"] for its in found["by_class"].values())
            rows.append(("of it under polygons", f"{covered / ground:.1%}"))
    rows.append(("scene", f"{plan['grid']['width']:,} x {plan['grid']['height']:,} pixels"))
    if metres is not None:
        rows.append(("pixel", f"{metres[0]:g} x {metres[1]:g} m"))
    rows.append(("coordinates", plan["grid"]["crs"] or "pixels"))
    parts.append(told(rows))
    if found is not None and counts["polygons"]:
        if metres is not None:
            parts.append(_areas(found))
        shares = found["by_confidence"]
        labels = [f"{k / len(shares):.1f}" if k % 4 == 0 else "" for k in range(len(shares))]
        if any(shares):
            parts.append(bars("polygons by confidence", shares, labels))
    parts.append("<h2>What it took</h2>")
    stages = {name: value for name, value in seconds.items() if name != "wall"}
    cost = [("wall time", f"{seconds['wall']:.1f} s")]
    cost += [(f"{name} (all threads)", f"{value:.1f} s") for name, value in stages.items()]
    cost += [
        ("tiles", f"{counts['tiles_predicted']:,} predicted, {counts['tiles_skipped']:,} empty"),
        ("memory planned", f"{plan['memory_bytes']['total'] / 1e6:,.0f} MB a process"),
    ]
    parts.append(told(cost))
    parts.append("<h2>How it was made</h2>")
    made = [("software", record["software"]), ("finished", record["finished"])]
    for model in record["models"]:
        made.append(("model", f"{model['name']} ({model['sha256'][:16]})"))
        made += [("credit", credit) for credit in model["credits"]]
    made.append(("engine", ", ".join(record["engine"])))
    parts.append(told(made))
    whole = html.escape(json.dumps(record, indent=1, default=str))
    parts.append(f"<details><summary>the whole record</summary><pre>{whole}</pre></details>")
    title = Path(record["outputs"][0]).name
    try:
        path.write_text(page(title, parts), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _areas(found: dict[str, Any]) -> str:
    edges = [*found["area_edges_m2"], None]
    labels = [f"{low:g}-{high:g}" if high is not None else f">{low:g}" for low, high in pairwise(edges)]
    return bars("polygons by area, m²", found["by_area"], labels)

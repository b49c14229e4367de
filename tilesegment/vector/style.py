"""How QGIS draws a layer of polygons."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tilesegment.model.card import ModelClass


def layer_style(labels: dict[int, ModelClass], column: str = "class") -> str:
    """A QGIS style (QML): outlines and light fills in the classes' colours, by the names in a column."""
    categories, symbols = [], []
    for number, entry in enumerate(labels.values()):
        name = entry.name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        categories.append(f'<category render="true" symbol="{number}" value="{name}" label="{name}"/>')
        symbols.append(_symbol(str(number), entry.colour))
    # QGIS's own way of saying "all other values": classes beyond those that are named are seen too.
    categories.append('<category render="true" symbol="other" value="" label="other"/>')
    symbols.append(_symbol("other", (128, 128, 128)))
    return (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM"><qgis styleCategories="Symbology">'
        f'<renderer-v2 type="categorizedSymbol" attr="{column}" forceraster="0" enableorderby="0">'
        f"<categories>{''.join(categories)}</categories><symbols>{''.join(symbols)}</symbols>"
        "</renderer-v2></qgis>"
    )


def _symbol(name: str, colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return (
        f'<symbol type="fill" name="{name}" alpha="1"><layer class="SimpleFill">'
        f'<Option type="Map"><Option type="QString" name="color" value="{red},{green},{blue},90"/>'
        f'<Option type="QString" name="outline_color" value="{red},{green},{blue},255"/>'
        '<Option type="QString" name="outline_width" value="0.4"/>'
        '<Option type="QString" name="style" value="solid"/></Option></layer></symbol>'
    )


def add_style(path: Path, name: str, style: str) -> None:
    """QGIS reads the default style of a GeoPackage's layer from its table `layer_styles`."""
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "
            "f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), "
            "f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, "
            "useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', 'classes', ?, '', 1, 'written by tilesegment', '')",
            (name, style),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
    database.close()

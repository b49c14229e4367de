#!/bin/sh
# One step among GDAL's own: sheets in any CRS become one scene in UTM, its roofs a layer of the large ones in
# degrees, and a raster of how far the next roof is.
#
#   examples/gdal_pipeline.sh EPSG:32651 OUTPUT_FOLDER sheet1.tif sheet2.tif ...
set -eu
crs=$1
out=$2
shift 2
mkdir -p "$out"
gdalbuildvrt -q "$out/sheets.vrt" "$@"
# -dstalpha: what lies outside of the turned sheets is no ground.
gdalwarp -q -overwrite -t_srs "$crs" -tr 0.15 0.15 -r bilinear -dstalpha -co COMPRESS=DEFLATE -co TILED=YES \
    "$out/sheets.vrt" "$out/scene.tif"
tilesegment predict "$out/scene.tif" -o "$out/roofs.gpkg" --mask "$out/mask.tif" --overwrite
ogr2ogr -overwrite -t_srs EPSG:4326 -where "area_m2 >= 50" -nln large "$out/large.fgb" "$out/roofs.gpkg" roofs
gdal_proximity.py -q -values 1 -distunits GEO -ot Float32 -co COMPRESS=DEFLATE "$out/mask.tif" "$out/distance.tif"

#!/bin/sh
# A pipeline: an aerial image, its roofs, a table in PostGIS, a question.
#
#   examples/postgis.sh scene.tif
#
# With PGHOST (and PGUSER, PGDATABASE, ...) into a database that runs; without it one of its own is started in a
# temporary folder, and stopped at the end (Debian's packages postgresql, postgis and gdal-bin).
set -eu
scene=$1
work=$(mktemp -d)
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)

as_owner() {
    # PostgreSQL does not run as root.
    if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}
finish() {
    [ -f "$work/data/postmaster.pid" ] && as_owner "$bin/pg_ctl" -D "$work/data" -m fast stop > /dev/null
    rm -rf "$work"
}
trap finish EXIT

if [ -z "${PGHOST:-}" ]; then
    mkdir "$work/data" "$work/socket"
    if [ "$(id -u)" -eq 0 ]; then chown -R postgres "$work"; fi
    export PGHOST="$work/socket" PGUSER=postgres PGDATABASE=postgres
    as_owner "$bin/initdb" -D "$work/data" -U postgres --auth trust > /dev/null
    as_owner "$bin/pg_ctl" -D "$work/data" -w -o "-k $PGHOST -c listen_addresses=''" -l "$work/data/log" start \
        > /dev/null
fi

tilesegment predict "$scene" -o "$work/roofs.gpkg" --layer roofs --min-area 4
psql -q -c 'CREATE EXTENSION IF NOT EXISTS postgis'
# "PG:" alone takes what the environment says. A table of this name that is there already is an error.
ogr2ogr -f PostgreSQL "PG:" "$work/roofs.gpkg" roofs -nln roofs -lco GEOMETRY_NAME=geom

# How many roofs, how much of the ground is under them, and how many neighbours stand closer than two metres.
psql --csv -c "
SELECT count(*) AS roofs,
       round(sum(area_m2)::numeric, 1) AS square_metres,
       round(avg(confidence)::numeric, 2) AS confidence,
       (SELECT count(*) FROM roofs a JOIN roofs b
          ON a.id < b.id AND ST_DWithin(a.geom::geometry, b.geom::geometry, 2)) AS close_pairs
FROM roofs"

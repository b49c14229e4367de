#!/bin/sh
# A Dask cluster by hand: a scheduler, two workers, a scene. On several machines the workers need the package,
# and must see the same paths as the one that gives the command.
#
#   examples/dask/by_hand.sh scene.tif roofs.gpkg
set -eu
work=$(mktemp -d)
python -m distributed.cli.dask_scheduler --host 127.0.0.1 --port 0 --no-dashboard \
    --scheduler-file "$work/scheduler.json" 2> "$work/scheduler.log" &
scheduler=$!
for number in 1 2; do
    # One thread a process: a process predicts one block at a time. `--memory-limit` is the machine's, since
    # tilesegment plans its own (--max-memory).
    python -m distributed.cli.dask_worker --scheduler-file "$work/scheduler.json" --nthreads 1 \
        --memory-limit 0 --no-dashboard --name "worker-$number" --local-directory "$work" \
        2> "$work/worker-$number.log" &
    workers="${workers:-} $!"
done
trap 'kill $workers $scheduler 2> /dev/null; wait; rm -rf "$work"' EXIT
while [ ! -s "$work/scheduler.json" ]; do sleep 0.2; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$work/scheduler.json")
tilesegment predict "$1" -o "$2" --scheduler "$address" --max-memory 2GB

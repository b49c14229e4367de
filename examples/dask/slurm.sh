#!/bin/bash
# The same on a cluster with SLURM: sbatch examples/dask/slurm.sh scene.tif roofs.gpkg
#SBATCH --job-name=roofs
#SBATCH --ntasks=9
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
# A job that is stopped by its limit goes on where it was when it is submitted again.
#SBATCH --signal=B:TERM@120
set -eu
file=$SLURM_SUBMIT_DIR/scheduler-$SLURM_JOB_ID.json
srun --ntasks=1 --exact python -m distributed.cli.dask_scheduler --scheduler-file "$file" --no-dashboard &
srun --ntasks=8 --exact python -m distributed.cli.dask_worker --scheduler-file "$file" --nthreads 1 \
    --memory-limit 0 --no-dashboard &
while [ ! -s "$file" ]; do sleep 1; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$file")
trap 'kill -TERM $predict; wait $predict' TERM
tilesegment predict "$1" -o "$2" --scheduler "$address" --max-memory 6GB &
predict=$!
wait "$predict"
rm -f "$file"

# About 1.2 GB: predicts, vectorises and evaluates on the CPU. With `--build-arg EXTRAS=torch` for GPUs, networks
# of your own and training: about 7 GB, run with `--gpus all`. BASE names another image with Python and apt.
#   docker build -t tilesegment .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" tilesegment predict scene.tif -o roofs.gpkg
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG EXTRAS=""
RUN apt-get update && apt-get install --yes --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tilesegment
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY tilesegment tilesegment
RUN pip install --no-cache-dir ".${EXTRAS:+[${EXTRAS}]}"
# Whoever runs it may keep converted models.
ENV TILESEGMENT_CACHE=/var/cache/tilesegment
RUN useradd --create-home tilesegment && mkdir -m 1777 "$TILESEGMENT_CACHE"
USER tilesegment
WORKDIR /data
HEALTHCHECK --interval=10m --timeout=2m CMD ["tilesegment", "doctor", "-q"]
ENTRYPOINT ["tilesegment"]

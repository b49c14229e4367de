FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tilesegment
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY tilesegment tilesegment
# With '.[torch]' for GPUs, networks of your own and training.
RUN pip install --no-cache-dir .
WORKDIR /data
ENTRYPOINT ["tilesegment"]

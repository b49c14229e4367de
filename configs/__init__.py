"""The configurations that `tilesegment train` knows by name: one YAML file each."""

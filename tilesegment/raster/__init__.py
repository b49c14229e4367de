"""The only rooms that open rasters: scenes in, class and probability rasters out."""

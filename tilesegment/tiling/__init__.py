"""Pure planning and blending: integers and arrays, no files and no models."""

"""From saved blocks to polygons as they are written."""

"""From class pixels to polygons: trace, join, clean, measure, write."""

"""Volumes wherever they live: opened lazily, read by region, one set of axes (z, y, x) for every format."""

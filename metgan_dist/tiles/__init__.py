"""Volumes -> training tiles: where they lie, what they hold, on which side of a split they are."""

"""Downstream segmentation: folds trained on real and synthetic tiles, scored lesion by lesion on tiles not seen."""

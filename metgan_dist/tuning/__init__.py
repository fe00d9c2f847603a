"""Ray Tune over loss weights: trials are Ray Train runs that share their tiles, segmentor and judge."""

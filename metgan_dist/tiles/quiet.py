"""Ray Data without its own words."""

from __future__ import annotations

import logging

import ray.data


def quiet(dataset: ray.data.Dataset) -> None:
    """Silence Ray Data for one data set: our own progress is what people read."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)

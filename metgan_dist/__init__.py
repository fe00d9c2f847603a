"""Distributed training of the MetGAN family: volumes in, trained generators and their scores out."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("metgan_dist")
except PackageNotFoundError:  # shipped to a cluster as a working directory, not installed
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    """`from metgan_dist import load_generator` without making every import of the package pay for torch."""
    if name == "load_generator":
        from metgan_dist.trained import load_generator

        return load_generator
    raise AttributeError(name)

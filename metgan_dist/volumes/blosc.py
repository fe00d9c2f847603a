"""Blosc chunks that were cut short are refused, whatever is decoded after them in memory.

Blosc decodes as many bytes as a chunk's own header says. It is not told how many there are, and reads on beyond the end
of a chunk that was cut: other values, with no error. Most OME-Zarr 0.4 files are compressed so.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numcodecs
import zarr
from numcodecs.compat import ensure_contiguous_ndarray
from numcodecs.registry import register_codec as register_v2
from zarr.codecs import BloscCodec
from zarr.registry import register_codec as register_v3

_HEADER = 16  # bytes; the last four of them are the chunk's own length


class WholeBlosc(numcodecs.Blosc):
    """numcodecs' Blosc, which compares the length of a chunk with the one in its header first."""

    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The decoded chunk; ValueError for one that is not as long as it says."""
        chunk = ensure_contiguous_ndarray(buf)
        said = int.from_bytes(chunk[_HEADER - 4 : _HEADER].tobytes(), "little")
        if chunk.nbytes < _HEADER or said != chunk.nbytes:
            raise ValueError(f"a Blosc chunk of {chunk.nbytes} bytes, where its header says {said}")
        return super().decode(buf, out)


class WholeBloscCodec(BloscCodec):
    """The same of Zarr's third format."""

    @cached_property
    def _blosc_codec(self) -> numcodecs.Blosc:
        settings = super()._blosc_codec.get_config()
        return WholeBlosc(**{name: value for name, value in settings.items() if name != "id"})


def use_whole_blosc() -> None:
    """Have Zarr, in this process, decode Blosc by these."""
    register_v2(WholeBlosc)
    register_v3("blosc", WholeBloscCodec)
    zarr.config.set({"codecs.blosc": f"{WholeBloscCodec.__module__}.{WholeBloscCodec.__qualname__}"})

"""Fixtures of the tests that run jobs as a user does."""

import numpy as np
import pytest
import zarr
from user import SHARED_CLUSTER


@pytest.fixture
def shared_cluster(ray_cluster, monkeypatch):
    """Jobs of this test join the session's cluster instead of starting their own."""
    monkeypatch.setenv(SHARED_CLUSTER, ray_cluster)


@pytest.fixture
def ome_zarr(tmp_path):
    """Writes a small OME-Zarr 0.4 volume of two channels and a label group `spots`; returns its path."""

    def write(name="volume.ome.zarr", shape=(8, 128, 256), change=None, label=None, metadata=True):
        random = np.random.default_rng(0)
        anatomy = random.integers(100, 1000, shape).astype("uint16")
        spots = np.zeros(shape, "uint8") if label is None else label
        if label is None:
            spots[:, 20:40, 20::64] = 1
            spots[:, 80:100, 20::64] = 1
        tumour = anatomy // 2 + np.uint16(800) * spots if label is None else anatomy
        image = np.stack([anatomy, tumour])
        if change is not None:
            image = change(image)
        path = tmp_path / name
        group = zarr.open_group(path, mode="w", zarr_format=2)
        array = group.create_array("0", shape=image.shape, dtype=image.dtype, chunks=(1, 8, 64, 64))
        array[:] = image
        axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
        scale = [{"type": "scale", "scale": [5.0, 2.0, 2.0]}]
        if metadata:
            group.attrs["multiscales"] = [
                {
                    "version": "0.4",
                    "axes": [{"name": "c", "type": "channel"}, *axes],
                    "datasets": [
                        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 5, 2, 2]}]}
                    ],
                }
            ]
            group.attrs["omero"] = {"channels": [{"label": "anatomy"}, {"label": "tumour"}]}
        labels = group.create_group("labels")
        labels.attrs["labels"] = ["spots"]
        mask = labels.create_group("spots")
        mask.create_array("0", shape=spots.shape, dtype=spots.dtype, chunks=(8, 64, 64))[:] = spots
        mask.attrs["multiscales"] = [
            {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        ]
        return path

    return write

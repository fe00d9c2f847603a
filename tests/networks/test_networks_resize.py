"""Images and volumes at other sizes, against Pillow, whose filters are smoothed where an image shrinks."""

import numpy as np
import pytest
import torch
from PIL import Image

from metgan_dist.networks.resize import resize


def by_pillow(image, edges):
    return np.asarray(Image.fromarray(image).resize(edges[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("edges", [(25, 25), (33, 42), (90, 64), (17, 100)])
def test_images_are_resized_as_pillow_does(edges):
    image = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    found = resize(torch.from_numpy(image)[None, None], edges)
    np.testing.assert_allclose(found[0, 0].numpy(), by_pillow(image, edges), atol=2e-5)


@pytest.mark.parametrize("edges", [(10, 12, 20), (30, 12, 16), (20, 40, 16), (25, 25, 25)])
def test_volumes_are_resized_along_each_axis_as_images_are(edges):
    volume = np.random.default_rng(0).standard_normal((2, 20, 24, 16)).astype(np.float32)
    found = resize(torch.from_numpy(volume)[None], edges)[0].numpy()
    for given, own in zip(volume, found, strict=True):
        planes = np.stack([by_pillow(plane, edges[1:]) for plane in given])
        depth = np.stack([by_pillow(planes[:, y], (edges[0], edges[2])) for y in range(edges[1])], axis=1)
        np.testing.assert_allclose(own, depth, atol=5e-5)


def test_what_has_the_size_stays_as_it_is_and_what_shrinks_is_smoothed():
    image = torch.rand(1, 1, 30, 30)
    assert resize(image, (30, 30)) is image
    chequered = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None, None]
    assert (resize(chequered, (20, 20)) - 0.5).abs().max() < 0.1

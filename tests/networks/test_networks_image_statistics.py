"""BatchNorm by each image's own statistics: as in training on that image alone."""

import pytest
import torch
from torch import nn

from metgan_dist.networks.image_statistics import image_statistics
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.unet_256 import UNet256


@pytest.fixture
def network():
    """Norms with parameters and without, and running statistics far from those of any image."""
    torch.manual_seed(0)
    network = MetGen(width=1 / 16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
            module.running_var.fill_(9.0)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
    return network


@pytest.fixture
def images():
    torch.manual_seed(1)
    # Each of another brightness, which BatchNorm over the batch would see.
    return torch.rand(3, 1, 128, 128) * 0.5 + torch.tensor([-1.0, 0.0, 0.5]).view(3, 1, 1, 1)


@pytest.fixture
def labels():
    label = torch.zeros(3, 128, 128, dtype=torch.int64)
    label[:, 40:90, 30:70] = 1
    label[1, 8:30] = 1
    return label


def test_an_image_comes_out_as_in_training_on_it_alone(network, images, labels):
    """Of the norms: spectral norms move on in training mode."""
    network.double().eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for k in range(len(images)):
        image, label = images[k : k + 1].double(), labels[k : k + 1]
        with torch.no_grad():
            with image_statistics(network):
                made = network(image, network.encode_label(label))
            by_running = network(image, network.encode_label(label))
            for norm in norms:
                norm.momentum = 0.0
                norm.train()
            expected = network(image, network.encode_label(label))
            network.eval()
        assert torch.allclose(made, expected, atol=1e-6)
        assert not torch.allclose(by_running, expected, atol=0.1)


def test_what_shares_the_batch_does_not_matter(network, images, labels):
    network.double().eval()
    images = images.double()
    with torch.no_grad(), image_statistics(network):
        together = network(images, network.encode_label(labels))
        alone = [network(images[k : k + 1], network.encode_label(labels[k : k + 1])) for k in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-9)


def test_nothing_is_left_behind(network, images, labels):
    before = {name: value.clone() for name, value in network.eval().state_dict().items()}
    with torch.no_grad():
        first = network(images, network.encode_label(labels))
        with pytest.raises(ValueError, match="must be multiples of"), image_statistics(network):
            network(images[..., :100], network.encode_label(labels))
        assert torch.equal(network(images, network.encode_label(labels)), first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_norms_in_training_mode_go_on_as_they_are(network, images, labels):
    network.train()
    with torch.no_grad(), image_statistics(network):
        network(images, network.encode_label(labels))
    assert not torch.equal(network.anatomy_path.centre[1].running_mean, torch.full((48,), 3.0))


def test_a_map_of_one_pixel_has_no_statistics_of_its_own():
    """At 64 pixels the innermost features of U-Net-256 with six downs are single pixels, one stage out 2 x 2."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.arange(4.0))
    x = torch.randn(2, 4, 1, 1)
    with torch.no_grad(), image_statistics(norm):
        assert torch.equal(norm(x), nn.functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps))
    unet = UNet256(1, 1, width=1 / 16, downs=6).eval()
    with torch.no_grad(), image_statistics(unet):
        assert torch.isfinite(unet(torch.randn(1, 1, 64, 64))).all()

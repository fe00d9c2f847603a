"""Initial weights are CycleGAN's, spectral norms included."""

import torch
from torch import nn

from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.metgen import MetGen


def test_weights_follow_the_published_distributions():
    torch.manual_seed(0)
    generator = initialise(MetGen(width=1 / 4))
    convolutions = [m for m in generator.anatomy_path.modules() if isinstance(m, nn.Conv2d)]
    weights = torch.cat([c.weight.flatten() for c in convolutions])
    assert abs(weights.std().item() - 0.02) < 2e-4
    assert abs(weights.mean().item()) < 2e-4
    norms = [m for m in generator.anatomy_path.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([n.weight for n in norms])
    assert abs(scales.mean().item() - 1) < 5e-3
    assert abs(scales.std().item() - 0.02) < 3e-3
    assert all(not n.bias.any() for n in norms)
    assert not generator.label_path.first.bias.any()


def test_spectral_norm_fits_the_drawn_weight_from_the_first_step():
    torch.manual_seed(0)
    generator = MetGen(width=1 / 4)
    names = set(dict(generator.named_parameters()))
    initialise(generator).eval()
    assert set(dict(generator.named_parameters())) == names
    block = generator.label_path.up_1
    original = block.conv_0.parametrizations.weight.original
    assert abs(original.std().item() - 0.02) < 1e-3
    # Fifteen power iterations from a random start: within a few per cent, where a stale estimate is off by half.
    largest = torch.linalg.svdvals(block.conv_0.weight.detach().flatten(1))[0].item()
    assert 0.98 < largest < 1.05

"""Multi-scale hinge, feature matching, perceptual loss and KL against numbers worked out by hand."""

import math

import pytest
import torch

from metgan_dist.methods.adversarial_features import (
    feature_matching,
    kl_divergence,
    multiscale_discriminator_loss,
    multiscale_generator_loss,
    perceptual_loss,
    split_fake_and_real,
)


def logits(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def noise():
    return torch.randn(1, 2, 3, 3)


def test_hinge_is_the_mean_over_scales_of_each_scales_own_mean():
    # Scales of four and of one logit count alike, and the features before the logits do not count.
    real = [[noise(), logits(1.0, 3.0, 0.5, 0.0)], [noise(), logits(-1.0)]]
    fake = [[noise(), logits(0.0, -2.0, 0.5, 1.0)], [noise(), logits(-0.25)]]
    # Discriminator: (0 + 0 + 0.5 + 1) / 4 + (1 + 0 + 1.5 + 2) / 4 = 1.5, and 2 + 0.75 = 2.75.
    assert multiscale_discriminator_loss(real, fake, "hinge").item() == pytest.approx((1.5 + 2.75) / 2)
    # Generator: -(0 - 2 + 0.5 + 1) / 4 = 0.125, and 0.25.
    assert multiscale_generator_loss(fake, "hinge").item() == pytest.approx((0.125 + 0.25) / 2)


def test_other_forms_reach_every_scale():
    fake = [[logits(0.0, 2.0)], [logits(3.0)]]
    assert multiscale_generator_loss(fake, "least-squares").item() == pytest.approx((1.0 + 4.0) / 2)
    assert multiscale_discriminator_loss(fake, fake, "least-squares").item() == pytest.approx(
        (0.5 * (1.0 + 2.0) + 0.5 * (4.0 + 9.0)) / 2
    )


def test_features_match_by_the_sum_over_layers_and_the_mean_over_scales_without_the_logits():
    fake = [[torch.tensor([1.0, 2.0]), torch.tensor([0.0]), logits(9.0)], [torch.tensor([4.0]), logits(9.0)]]
    real = [[torch.tensor([0.0, 0.0]), torch.tensor([0.5]), logits(0.0)], [torch.tensor([1.0]), logits(0.0)]]
    # First scale (1 + 2) / 2 + 0.5 = 2, second 3.
    assert feature_matching(fake, real).item() == pytest.approx(2.5)


def test_only_the_generated_features_are_moved():
    fake, real = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    feature_matching([[fake, logits(0.0)]], [[real, logits(0.0)]]).backward()
    assert fake.grad is not None
    assert real.grad is None


def test_kl_is_summed_over_the_latent_and_averaged_over_the_batch():
    mean = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    variance = torch.tensor([[1.0, 1.0], [4.0, 0.5]])
    first = 0.5 * (1 + 4)
    second = 0.5 * ((4 - 1 - math.log(4)) + (0.5 - 1 - math.log(0.5)))
    assert kl_divergence(mean, variance.log()).item() == pytest.approx((first + second) / 2)
    assert kl_divergence(torch.zeros(3, 8), torch.zeros(3, 8)).item() == 0


def test_kl_is_torchs_own():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(4, 16), torch.randn(4, 16)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_perceptual_loss_weighs_deep_features_most_and_stops_at_the_target():
    def vgg(image):
        return [image * factor for factor in (32.0, 16.0, 8.0, 4.0, 1.0)]

    image, target = torch.full((1, 1, 2, 2), 0.5, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = perceptual_loss(vgg, image, target)
    assert loss.item() == pytest.approx(5 * 0.5)  # each factor is undone by its weight
    loss.backward()
    assert image.grad is not None
    assert target.grad is None


def test_a_network_with_another_number_of_features_is_refused():
    with pytest.raises(ValueError):
        perceptual_loss(lambda image: [image] * 4, torch.zeros(1), torch.zeros(1))


def test_halves_of_a_batch_come_apart_fake_first():
    both = [[torch.arange(8.0).view(4, 2), torch.arange(4.0).view(4, 1)]]
    fake, real = split_fake_and_real(both)
    assert fake[0][0].tolist() == [[0, 1], [2, 3]]
    assert real[0][0].tolist() == [[4, 5], [6, 7]]
    assert fake[0][1].tolist() == [[0], [1]]
    assert real[0][1].tolist() == [[2], [3]]


def test_half_precision_features_lose_nothing_in_the_mean():
    half = torch.full((1, 4, 64, 64), 0.3, dtype=torch.bfloat16)
    exact, zero = half.double(), torch.zeros_like(half)
    pairs = [
        (feature_matching([[half, half]], [[zero, zero]]), exact.mean()),
        (multiscale_generator_loss([[half]], "hinge"), -exact.mean()),
        (kl_divergence(half[0, 0], zero[0, 0]), 0.5 * exact[0, 0].square().sum(1).mean()),
    ]
    for loss, expected in pairs:
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)

"""Every loss term against numbers worked out by hand."""

import math

import pytest
import torch
from monai.losses import DiceCELoss

from metgan_dist.methods.losses import (
    cross_entropy_and_dice,
    dice_loss,
    discriminator_loss,
    generator_loss,
    l1,
    weighted_cross_entropy,
)

REAL = torch.tensor([1.0, 3.0, 0.5, 0.0])
FAKE = torch.tensor([0.0, -2.0, 0.5, 1.0])


def log_sigmoid(value):
    return -math.log(1 + math.exp(-value))


def test_least_squares_is_halved_for_the_discriminator_only():
    # (D - 1)^2: real 0, 4, 0.25, 1 -> 1.3125; fake 1, 9, 0.25, 0 -> 2.5625. D^2: fake 0, 4, 0.25, 1 -> 1.3125.
    assert generator_loss(FAKE, "least-squares").item() == pytest.approx(2.5625)
    assert discriminator_loss(REAL, FAKE, "least-squares").item() == pytest.approx(0.5 * (1.3125 + 1.3125))


def test_log_form_is_the_papers_equation_1():
    real = -sum(log_sigmoid(value) for value in REAL.tolist()) / 4
    fake = -sum(math.log(1 - 1 / (1 + math.exp(-value))) for value in FAKE.tolist()) / 4
    assert discriminator_loss(REAL, FAKE, "log").item() == pytest.approx(real + fake, rel=1e-6)
    expected = -sum(log_sigmoid(value) for value in FAKE.tolist()) / 4
    assert generator_loss(FAKE, "log").item() == pytest.approx(expected, rel=1e-6)


def test_log_form_survives_a_certain_discriminator():
    certain = torch.tensor([-1e4, 1e4])
    assert generator_loss(certain, "log").item() == pytest.approx(5e3)
    assert discriminator_loss(certain, certain, "log").isfinite()


def test_hinge_ignores_what_is_beyond_the_margin():
    # real: 0, 0, 0.5, 1 -> 0.375; fake: 1, 0, 1.5, 2 -> 1.125
    assert discriminator_loss(REAL, FAKE, "hinge").item() == pytest.approx(1.5)
    assert generator_loss(FAKE, "hinge").item() == pytest.approx(0.125)


def test_weighted_cross_entropy_weighs_foreground_and_background_and_averages_over_pixels():
    # Probabilities 0.8 and 0.2 have logits +-log 4; at chance both cost log 2.
    logits = torch.tensor([math.log(4), -math.log(4), 0.0, 0.0])
    target = torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = (2 * -math.log(0.8) + 0.5 * -math.log(0.8) + 2 * math.log(2) + 0.5 * math.log(2)) / 4
    assert weighted_cross_entropy(logits, target, positive=2, negative=0.5).item() == pytest.approx(expected)


def test_weighted_cross_entropy_does_not_grow_with_the_image():
    small, large = (
        weighted_cross_entropy(torch.zeros(1, 1, n, n), torch.ones(1, 1, n, n), positive=4, negative=1) for n in (8, 64)
    )
    assert small.item() == pytest.approx(4 * math.log(2))
    assert large.item() == pytest.approx(small.item())


def test_equal_weights_are_torchs_own_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 8, 8), torch.rand(3, 2, 8, 8)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(weighted_cross_entropy(logits, target, positive=1, negative=1), expected)


def test_l1_is_the_mean_absolute_difference():
    assert l1(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.0])).item() == pytest.approx(1.25)


@pytest.mark.parametrize("form", ["least-squares", "log", "hinge"])
def test_half_precision_logits_lose_nothing_in_the_mean(form):
    logits = torch.full((1, 1, 64, 64), 0.3, dtype=torch.bfloat16)
    exact = logits.double()
    for half, full in [
        (generator_loss(logits, form), generator_loss(exact, form)),
        (discriminator_loss(logits, logits, form), discriminator_loss(exact, exact, form)),
        (l1(logits, logits * 2), l1(exact, (logits * 2).double())),
    ]:
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(full.item(), rel=1e-6)


def test_double_precision_stays_double():
    value = torch.zeros(2, dtype=torch.float64)
    assert weighted_cross_entropy(value, value, positive=1, negative=1).dtype == torch.float64


@pytest.mark.parametrize("classes", [2, 4])
def test_cross_entropy_and_dice_are_monais_of_the_foreground(classes):
    torch.manual_seed(0)
    logits, label = torch.randn(3, classes, 6, 8, 8, dtype=torch.float64), torch.randint(0, classes, (3, 6, 8, 8))
    monai = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(cross_entropy_and_dice(logits, label), monai(logits, label[:, None]))


def test_cross_entropy_and_dice_by_hand():
    # p(foreground) is 0.8, 0.8, 0.2, 0.2 where the label is 1, 0, 1, 0.
    odds = math.log(4)
    logits = torch.tensor([[[0.0] * 4, [odds, odds, -odds, -odds]]])
    label = torch.tensor([[1, 0, 1, 0]])
    entropy = (-math.log(0.8) - math.log(0.2) - math.log(0.2) - math.log(0.8)) / 4
    dice = 2 * (0.8 + 0.2) / (2.0 + 2.0)
    assert cross_entropy_and_dice(logits, label).item() == pytest.approx(entropy + 1 - dice)


def test_a_batch_without_lesions_has_a_dice_loss_of_1_and_no_gradient_from_it():
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss = dice_loss(logits, torch.zeros(2, 8, 8, dtype=torch.int64), squares=False, background=False)
    loss.backward()
    assert loss.item() == 1
    assert logits.grad.abs().max() == 0

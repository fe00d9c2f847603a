"""MetGen: the two pathways together, the label's features apart."""

import pytest
import torch
from torch import nn

from metgan_dist.networks.metgen import MetGen


def tiny(**options):
    torch.manual_seed(0)
    return MetGen(width=1 / 16, **options)


def test_generator_has_the_authors_parameter_counts():
    with torch.device("meta"):
        generator = MetGen()
    counts = [sum(p.numel() for p in path.parameters()) for path in (generator.anatomy_path, generator.label_path)]
    assert counts == [35_602_993, 4_142_912]


@pytest.mark.parametrize("edge", [128, 192])
@pytest.mark.parametrize("full", [False, True])
def test_translates_to_the_same_size_within_range(edge, full):
    generator = tiny(merge_full_resolution=full)
    features = generator.encode_label(torch.randint(0, 2, (1, edge, edge)))
    image = generator(torch.randn(1, 1, edge, edge), features)
    assert image.shape == (1, 1, edge, edge)
    assert image.abs().max() <= 1


def test_output_is_the_tanh_of_the_unet_on_image_and_label_features():
    generator = tiny().eval()
    image, features = torch.randn(1, 1, 64, 64), generator.encode_label(torch.randint(0, 2, (1, 64, 64)))
    assert torch.equal(generator(image, features), generator.anatomy_path(image, features).tanh())


def test_every_parameter_gets_a_gradient():
    for full in (False, True):
        generator = tiny(merge_full_resolution=full)
        label = torch.randint(0, 2, (2, 128, 128))
        generator(torch.randn(2, 1, 128, 128), generator.encode_label(label)).square().mean().backward()
        assert [name for name, p in generator.named_parameters() if p.grad is None] == []


def test_label_changes_the_image_where_it_changes():
    generator = tiny().eval()
    empty = torch.zeros(1, 256, 256, dtype=torch.int64)
    lesion = empty.clone()
    lesion[:, 96:160, 96:160] = 1
    image = torch.randn(1, 1, 256, 256)
    difference = generator(image, generator.encode_label(lesion)) - generator(image, generator.encode_label(empty))
    assert difference[..., 96:160, 96:160].abs().mean() > 0


def test_sync_batch_norm_conversion_reaches_every_batch_norm_and_keeps_the_result():
    torch.manual_seed(0)
    generator = MetGen(width=1 / 8, label_norm="batch").eval()
    label, image = torch.randint(0, 2, (1, 64, 64)), torch.randn(1, 1, 64, 64)
    before = generator(image, generator.encode_label(label))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(generator)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    # Two in each of six blocks, and one in the shortcut of the three blocks that change the width.
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.label_path.modules()) == 15
    torch.testing.assert_close(converted(image, converted.encode_label(label)), before)


def test_bfloat16_gives_a_float32_image_and_norms_in_float32():
    generator = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(torch.randn(2, 1, 64, 64), generator.encode_label(torch.randint(0, 2, (2, 64, 64))))
        assert generator.label_path.head.conv_0.weight.dtype == torch.float32
    assert image.dtype == torch.float32
    assert image.isfinite().all()


def test_volumes_translate_too():
    generator = tiny(dimensions=3).eval()
    volume = generator(torch.randn(1, 1, 64, 64, 64), generator.encode_label(torch.zeros(1, 64, 64, 64).long()))
    assert volume.shape == (1, 1, 64, 64, 64)

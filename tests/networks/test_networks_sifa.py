"""SIFA's networks: sizes counted layer by layer, the residual block against torchvision's, fields from gradients."""

import pytest
import torch
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from metgan_dist.networks.resnet_9 import ResNet9
from metgan_dist.networks.sifa import (
    AuxiliaryPatchGAN,
    Decoder,
    Encoder,
    ResidualBlock,
    ResidualResNet9,
    SegmentationHead,
)

WIDTH = 1 / 16
BATCH, INSTANCE = torch.nn.BatchNorm2d, torch.nn.InstanceNorm2d


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


def all_reached(network):
    return all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_encoder_has_the_convolutions_and_norms_of_its_layer_table():
    blocks = [(16, 16), (16, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 3]
    blocks += [(256, 512), (512, 512), (512, 512), (512, 512)]  # the last two are dilated
    convolutions = [(1, 16, 7), (512, 512, 3), (512, 512, 3)]
    convolutions += [layer for i, o in blocks for layer in ((i, o, 3), (o, o, 3))]
    assert count(Encoder) == sum(i * o * k * k + 2 * o for i, o, k in convolutions)


def test_decoder_head_and_discriminator_have_theirs():
    convolutions = [(512, 128, 3), *[(128, 128, 3)] * 8, (128, 64, 3), (64, 64, 3), (64, 32, 3)]
    assert count(lambda: Decoder(512)) == sum(i * o * k * k for i, o, k in convolutions) + 32 * 49 + 1
    assert count(lambda: SegmentationHead(512, 5)) == 512 * 5 + 5
    assert count(AuxiliaryPatchGAN) == 2_762_689 + 16 * 512 + 1
    assert count(ResidualResNet9) == count(lambda: ResNet9(1, 1, base=32))


def test_block_is_torchvisions_where_it_keeps_its_channels():
    torch.manual_seed(0)
    theirs, ours = BasicBlock(6, 6), ResidualBlock(6, 6, BATCH)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    names = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}
    state = {f"branch.{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(("incoming", "outgoing", "before"), [(4, 8, 2), (4, 4, 0), (2, 5, 1)])
def test_shortcut_pads_channels_of_zeros_on_both_sides(incoming, outgoing, before):
    block = ResidualBlock(incoming, outgoing, BATCH)
    torch.nn.init.zeros_(block.branch[-1].weight)  # the branch's last norm
    x = torch.randn(1, incoming, 4, 4)
    result = block(x)
    assert torch.equal(result[:, before : before + incoming], x.relu())
    assert result.abs().sum() == x.relu().sum()


@pytest.mark.parametrize(("dilation", "field"), [(1, 5), (2, 9)])
def test_dilation_widens_the_field_of_a_block(dilation, field):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 21, 21, requires_grad=True)
    ResidualBlock(3, 3, BATCH, dilation).eval()(x)[0, :, 10, 10].sum().backward()
    rows, columns = torch.nonzero(x.grad[0].abs().sum(0), as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == field


@pytest.mark.parametrize(("edges", "channels"), [((32, 32), 1), ((64, 40), 3)])
def test_encoder_gives_two_depths_at_an_eighth_and_only_the_deep_one_is_dilated(edges, channels):
    torch.manual_seed(0)
    encoder = Encoder(channels, width=WIDTH)
    features = encoder(torch.randn(2, channels, *edges))
    expected = (2, encoder.features, edges[0] // 8, edges[1] // 8)
    assert features.deep.shape == features.shallow.shape == expected
    assert torch.equal(encoder.eval().deep(features.shallow), encoder.deep(features.shallow))
    dilated = [name for name, m in encoder.named_modules() if getattr(m, "dilation", 1) == (2, 2)]
    assert [name.split(".")[:2] for name in dilated] == [["deep", "0"]] * 2 + [["deep", "1"]] * 2
    assert len([m for m in encoder.shallow if isinstance(m, torch.nn.MaxPool2d)]) == 3


def test_edges_that_do_not_halve_three_times_are_refused():
    with pytest.raises(ValueError, match=r"\(64, 36\) must be multiples of 8"):
        Encoder(width=WIDTH)(torch.zeros(1, 1, 64, 36))


def test_gradients_of_both_depths_reach_every_parameter_of_the_encoder():
    torch.manual_seed(0)
    encoder, image = Encoder(width=WIDTH), torch.randn(2, 1, 32, 32)
    encoder(image).shallow.sum().backward()
    assert all(p.grad is None for p in encoder.deep.parameters())
    assert all_reached(encoder.shallow)
    encoder.zero_grad(set_to_none=True)
    encoder(image).deep.sum().backward()
    assert all_reached(encoder)


@pytest.mark.parametrize("channels", [1, 3])
def test_translators_change_the_image_and_without_a_residual_only_bound_it(channels):
    torch.manual_seed(0)
    image = torch.randn(2, channels, 32, 40)
    encoder = Encoder(channels, width=WIDTH)
    decoder, generator = Decoder(encoder.features, channels, width=WIDTH), ResidualResNet9(channels, width=WIDTH)
    deep = encoder(image).deep.detach()
    for network, arguments in ((decoder, (deep, image)), (generator, (image,))):
        result = network(*arguments)
        assert result.shape == image.shape
        assert result.abs().max() <= 1
        result.square().sum().backward()
        assert all_reached(network)
        last = network.model[-1] if network is decoder else network.resnet.model[-1]
        assert not torch.allclose(result, image.tanh(), atol=1e-3)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        torch.testing.assert_close(network(*arguments), image.tanh())


def test_images_do_not_mix_in_generator_and_decoder():
    torch.manual_seed(0)
    images, deep = torch.randn(2, 1, 16, 16), torch.randn(2, 8, 2, 2)
    generator, decoder = ResidualResNet9(width=WIDTH), Decoder(8, width=WIDTH)
    torch.testing.assert_close(generator(images)[1:], generator(images[1:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder(deep, images)[1:], decoder(deep[1:], images[1:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_head_is_a_linear_map_of_each_feature_vector_drawn_large(classes):
    torch.manual_seed(0)
    head, features = SegmentationHead(6, classes), torch.randn(2, 6, 4, 5)
    logits = head(features, torch.Size((32, 40)))
    small = torch.einsum("cf,nfhw->nchw", head.classifier.weight[:, :, 0, 0], features)
    small = small + head.classifier.bias[:, None, None]
    assert logits.shape == (2, classes, 32, 40)
    torch.testing.assert_close(logits, functional.interpolate(small, scale_factor=8, mode="bilinear"))


def test_both_questions_are_asked_of_70x70_patches():
    torch.manual_seed(0)
    discriminator = AuxiliaryPatchGAN(width=1 / 8).double()
    model = discriminator.patchgan.model
    # Statistics over the whole image would let every logit see every pixel; the field is that of the convolutions.
    for place, module in enumerate(model):
        if isinstance(module, INSTANCE):
            model[place] = torch.nn.Identity()
    for question in (0, 1):
        image = torch.randn(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
        logits = discriminator(image)[question]
        logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
        rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
        assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (70, 70)


def test_the_two_answers_share_all_but_their_last_kernel():
    torch.manual_seed(0)
    discriminator = AuxiliaryPatchGAN(3, width=WIDTH)
    real, cycled = discriminator(torch.randn(2, 3, 64, 64))
    assert real.shape == cycled.shape == (2, 1, 6, 6)
    cycled.square().sum().backward()
    last = discriminator.patchgan.model[-1]
    assert last.weight.grad[0].abs().max() == 0
    assert last.weight.grad[1].abs().max() > 0
    assert all_reached(discriminator)


def test_images_are_float32_under_bfloat16():
    torch.manual_seed(0)
    image, encoder = torch.randn(1, 1, 16, 16), Encoder(width=WIDTH).eval()
    decoder = Decoder(encoder.features, width=WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert ResidualResNet9(width=WIDTH)(image).dtype == torch.float32
        half = decoder(encoder(image).deep, image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, decoder(encoder(image).deep, image), atol=0.1, rtol=0.1)

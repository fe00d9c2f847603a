"""Images of two domains: each generator is given the label of its own input, and pairs give what they gave."""

import pytest
import torch
from owned import owned
from turns import batch, unreached

from metgan_dist.methods import METHODS, build_method, build_segmentor_network, method_class
from metgan_dist.methods.losses import l1
from metgan_dist.recipe import Recipe

CYCLES = ["cyclegan", "cyclegan_seg", "metgan_minus", "sifa"]


def recipe(name, **method):
    return Recipe.model_validate(
        {
            "tiles": {"size": [64]},
            "method": {**owned(name, width=1 / 32, segmentor_width=1 / 16, pool=2), **method},
        }
    )


def build(name, **method):
    settings = recipe(name, **method)
    torch.manual_seed(0)
    needed = "segmentor" in method_class(name).needs(settings)
    return build_method(settings, build_segmentor_network(settings) if needed else None)


def apart(without=(), **options):
    """A batch whose tumour images are of other places, with labels of their own."""
    own, other = batch(**options), batch(seed=2, **options)
    fields = {**own, "tumour": other["tumour"], "tumour_label": other["label"], "tumour_tile": torch.arange(2)}
    return {name: value for name, value in fields.items() if name not in without}


def by_hand(method, data, label, tumour_label):
    """Cycle and identity of CycleGAN with these labels of x and of y."""
    f, g = method.networks["generator"], method.networks["inverse"]
    x, y = data["anatomy"], data["tumour"]
    f_x, f_y, g_x, g_y = (network.encode_label(one) for network in (f, g) for one in (label, tumour_label))
    cycle = l1(g(f(x, f_x), g_x), x) + l1(f(g(y, g_y), f_y), y)
    return {"cycle": 10 * cycle, "identity": 5 * (l1(g(x, g_x), x) + l1(f(y, f_y), y))}


@pytest.mark.parametrize("backbone", ["metgen", "unet-256"])
def test_each_generator_is_given_the_label_of_its_own_input(backbone):
    method, data = build("cyclegan", backbone=backbone).eval(), apart()
    terms, made = method.losses("generators", data, {})
    for name, value in by_hand(method, data, data["label"], data["tumour_label"]).items():
        torch.testing.assert_close(terms[name], value)
    g = method.networks["inverse"]
    torch.testing.assert_close(made["anatomy"], g(data["tumour"], g.encode_label(data["tumour_label"])))


@pytest.mark.parametrize(("missing", "which"), [("label", 0), ("tumour_label", 1)])
def test_a_domain_without_labels_is_background(missing, which):
    """Not the label of the other domain's image, which shows another place."""
    method, data = build("cyclegan").eval(), apart(without=[missing])
    labels = [data.get("label"), data.get("tumour_label")]
    labels[which] = torch.zeros(2, 64, 64, dtype=torch.long)
    terms, _ = method.losses("generators", data, {})
    for name, value in by_hand(method, data, *labels).items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize("name", ["cyclegan", "metgan"])
def test_pairs_give_the_same_bits_with_and_without_a_second_label(name):
    data = batch()
    results = []
    for fields in (data, {**data, "tumour_label": data["label"]}):
        method = build(name).train()
        torch.manual_seed(5)
        results.append(method.losses("generators", fields, {}))
    for one, other in zip(*results, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", CYCLES)
def test_every_parameter_learns_from_images_of_two_domains(name):
    assert unreached(build(name), apart()) == []


def test_the_segmentation_loss_holds_the_translation_against_the_label_of_its_input():
    method = build("cyclegan_seg").eval()
    data = apart()
    term = method.losses("generators", data, {})[0]["segmentation"]
    other = {**data, "tumour_label": 1 - data["tumour_label"]}
    assert torch.equal(method.losses("generators", other, {})[0]["segmentation"], term)
    other = {**data, "label": 1 - data["label"]}
    assert not torch.equal(method.losses("generators", other, {})[0]["segmentation"], term)


@pytest.mark.parametrize("name", CYCLES)
def test_tiles_of_the_source_alone_are_translated_and_shown_without_a_real_image(name):
    method, data = build(name).eval(), {key: value for key, value in batch().items() if key != "tumour"}
    assert list(method.pictures(data)) == ["anatomy", "label", "generated", "cycled"]
    if name != "sifa":  # which takes no label
        empty = {**data, "label": torch.zeros_like(data["label"])}
        assert torch.equal(method.translate({"anatomy": data["anatomy"]}), method.translate(empty))


def test_a_method_of_pairs_does_not_do_without_the_label():
    data = batch()
    with pytest.raises(KeyError):
        build("pix2pix").translate({"anatomy": data["anatomy"]})


def test_methods_say_whether_they_train_unpaired_and_need_labels_for_it():
    unpaired = [name for name in METHODS if method_class(name).unpaired(recipe(name))]
    assert unpaired == [*CYCLES, "cycle_shape", "singan"]
    needing = [name for name in CYCLES if method_class(name).needs_label(recipe(name))]
    assert needing == ["cyclegan_seg", "metgan_minus", "sifa"]
    assert not method_class("cyclegan_seg").needs_label(recipe("cyclegan_seg", alpha3=0))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_way_back_takes_the_tumour_image_with_the_label_of_its_own_place(labelled):
    method, data = build("cyclegan").eval(), apart(without=() if labelled else ("tumour_label",))
    g, label = method.networks["inverse"], data.get("tumour_label", torch.zeros(2, 64, 64, dtype=torch.long))
    assert torch.equal(method.translate_back(data), g(data["tumour"], g.encode_label(label)))


def test_sifa_decodes_what_its_encoder_reads_in_the_tumour_image():
    method, data = build("sifa").eval(), apart()
    encoder, decoder = method.networks["encoder"], method.networks["decoder"]
    assert torch.equal(method.translate_back(data), decoder(encoder(data["tumour"]).deep, data["tumour"]))


def test_a_method_of_one_direction_says_so(mistake):
    with mistake("synthesis.direction: back, but MetGAN translates in one direction alone"):
        build("pix2pix").translate_back(apart())

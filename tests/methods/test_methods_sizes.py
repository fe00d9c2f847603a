"""Which tiles fit which method: dimensions and edges are told in one line before any are cut, and are what trains."""

import pytest
import torch
from owned import owned
from turns import FiveFeatures, batch, check_trains, optimisers, play_all

from metgan_dist.errors import UserError
from metgan_dist.methods import (
    METHODS,
    build_method,
    build_segmentor_network,
    check_methods,
    check_tile_size,
    method_class,
)
from metgan_dist.methods.rows import ROWS
from metgan_dist.recipe import Recipe

KINDS = {"projection": 2, "slice": 2, "crop": 3}


def recipe(name, kind="slice", size=(64, 64), training=None, tiles=None, **method):
    small = owned(name, width=1 / 32, segmentor_width=1 / 32, latent=4, pool=2)
    return Recipe.model_validate(
        {
            "tiles": {"kind": kind, "size": size, **(tiles or {})},
            "method": {**small, **method},
            "training": {"augment": name not in ("lesion_wgan", "singan"), **(training or {})},
        }
    )


def build(settings):
    chosen = method_class(settings.method.name)
    torch.manual_seed(0)
    segmentor = build_segmentor_network(settings) if "segmentor" in chosen.needs(settings) else None
    return build_method(settings, segmentor, FiveFeatures() if "vgg19" in chosen.needs(settings) else None)


def shortest(settings):
    """The shortest edge that the method says it takes."""
    chosen = method_class(settings.method.name)
    divisor = chosen.divisor(settings)
    return -(-chosen.least_edge(settings) // divisor) * divisor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_tiles_of_its_dimensions_and_refuses_others_in_one_line(name, kind, mistake):
    settings = recipe(name, kind, (128,) * KINDS[kind])
    if KINDS[kind] in METHODS[name].dimensions:
        check_methods(settings, settings.tiles.shape)
        return
    with mistake("method.name: ", name, f"tiles.kind {kind} gives 3D ones", "or a method that takes them: pix2pix,"):
        check_methods(settings, settings.tiles.shape)


def test_all_rows_of_table_2_and_all_that_is_not_label_to_image_but_sifa_work_in_3d():
    others = {"segmentor", "cycle_shape", "lesion_wgan", "singan"}
    assert {name for name, method in METHODS.items() if 3 in method.dimensions} == {*ROWS, *others}


# Of the row's own backbone, and of ResNet-9; then the segmentors.
@pytest.mark.parametrize(
    ("settings", "divisor", "edge"),
    [
        *((recipe(name), 64 if "metg" in name else 32, 64 if "metg" in name else 32) for name in ROWS),
        (recipe("cyclegan", backbone="resnet-9"), 4, 24),
        (recipe("metgan", "crop", (64,) * 3), 8, 24),
        (recipe("metgan", "crop", (64,) * 3, alpha1=0, alpha3=0), 8, 8),
        (recipe("pix2pix", "crop", (64,) * 3), 32, 32),
        (recipe("cyclegan", "crop", (64,) * 3, backbone="resnet-9"), 4, 24),
        *((recipe(name), 32, 32) for name in ("spade", "spade_vae", "sean", "sean_vae", "redgan")),
        (recipe("sifa"), 8, 24),
        (recipe("segmentor"), 64, 64),
        (recipe("segmentor", segmentor_network="resnet-34"), 32, 32),
        (recipe("segmentor", "crop", (64,) * 3), 8, 8),
    ],
    ids=lambda value: value.method.name if isinstance(value, Recipe) else str(value),
)
def test_the_shortest_tiles_that_a_method_takes_train_it(settings, divisor, edge):
    chosen = method_class(settings.method.name)
    assert (chosen.divisor(settings), shortest(settings)) == (divisor, edge)
    tiles = settings.tiles.model_copy(update={"size": (edge,) * settings.tiles.dimensions})
    # The frozen segmentor, which needs longer edges than some methods, is looked at apart.
    method = settings.method.model_copy(update={"segmentor_network": "dynunet"})
    settings = settings.model_copy(
        update={"tiles": tiles, **({} if settings.method.name == "segmentor" else {"method": method})}
    )
    of_two = settings.training.model_copy(update={"batch_size": 2})
    check_tile_size(settings.model_copy(update={"training": of_two}), edge)
    method, data = build(settings), batch(edges=tiles.shape)
    check_trains(method, data)


@pytest.mark.parametrize(
    ("edges", "fit"),
    [((8, 8), False), ((18, 14), False), ((8, 16), False), ((10, 8, 16), False), ((8, 32), True), ((10, 16, 16), True)],
)
def test_dynunet_wants_edges_that_halve_twice_as_nnunet_halves_them(edges, fit):
    settings = recipe("segmentor", "crop" if len(edges) == 3 else "slice", edges, segmentor_network="dynunet")
    assert (METHODS["segmentor"].divisor(settings), shortest(settings)) == (2, 8)
    if not fit:
        with pytest.raises(
            UserError, match=r"^tiles\.size: tiles of .* cannot be halved twice; DynUNet needs edges of"
        ):
            METHODS["segmentor"].check(settings)
        return
    METHODS["segmentor"].check(settings)
    data = batch(edges=edges)
    method = build(settings)
    assert play_all(method, data, optimisers(method))["segmentor"]["segmentation"].isfinite()


@pytest.mark.parametrize(
    ("settings", "edges", "few"),
    [
        (recipe("metgan"), (64, 64), True),
        (recipe("metgan"), (64, 128), False),
        (recipe("metgan", "crop", (24, 64, 64), alpha1=0), (8, 64, 32), True),
        (recipe("metgan", "crop", (24, 64, 64)), (24, 64, 64), False),
        (recipe("pix2pix"), (64, 64), False),
        (recipe("pix2pix", "crop", (32,) * 3), (32, 32, 32), False),
        (recipe("cyclegan", backbone="resnet-9"), (24, 24), False),
        (recipe("spade"), (32, 32), True),
        (recipe("sifa"), (24, 24), False),
        (recipe("segmentor", segmentor_batch_size=1), (64, 64), True),
        (recipe("segmentor", "crop", (8,) * 3, segmentor_batch_size=1), (8, 8, 8), True),
        (recipe("segmentor", segmentor_network="dynunet"), (16, 16), False),
        (recipe("segmentor", segmentor_network="resnet-34"), (32, 32), True),
    ],
    ids=lambda value: value.method.name if isinstance(value, Recipe) else str(value),
)
def test_one_tile_is_too_few_for_batch_norm_where_it_is_said_to_be(settings, edges, few):
    settings = settings.model_copy(update={"tiles": settings.tiles.model_copy(update={"size": edges})})
    if few:
        with pytest.raises(UserError, match=r"^tiles\.size: a batch of one tile .*BatchNorm a single value"):
            check_tile_size(settings, edges)
    else:
        check_tile_size(settings, edges)
    method = build(settings.model_copy(update={"method": settings.method.model_copy(update={"alpha3": 0.0})}))
    data = batch(n=1, edges=edges)
    if not few:
        play_all(method, data, optimisers(method))
        return
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        play_all(method, data, optimisers(method))


@pytest.mark.parametrize(
    ("settings", "edges", "told"),
    [
        (recipe("metgan"), (300, 300), r"tiles\.size: tiles of 300 .* metgan, .* multiple of 64; use 256 or 320"),
        (recipe("metgan", "crop", (26, 64, 64)), (26, 64, 64), "multiple of 8, at least 24; use 24 or 32"),
        (recipe("metgan", "crop", (16, 64, 64)), (16, 64, 64), "tiles of 16 .* at least 24; use 24 or 32"),
        (recipe("pix2pix", "crop", (24, 64, 64)), (24, 64, 64), "pix2pix, .* multiple of 32; use 32 or 64"),
        (recipe("sifa"), (20, 24), "tiles of 20 .* sifa, .* multiple of 8, at least 24; use 24 or 32"),
        (recipe("segmentor"), (96, 96), r"the segmentor \(unet\), which needs a multiple of 64; use 64 or 128"),
    ],
    ids=str,
)
def test_edges_that_do_not_fit_are_told_with_those_that_do(settings, edges, told):
    with pytest.raises(UserError, match=told) as caught:
        check_tile_size(settings, edges)
    assert "\n" not in str(caught.value)


def test_the_segmentors_that_are_trained_beside_a_method_have_sizes_too():
    """Pix2Pix takes 96 pixels, the paper's segmentor none but multiples of 64; the judge is the other network."""
    check_methods(recipe("pix2pix", size=(96, 96)), (96, 96))
    with pytest.raises(UserError, match=r"tiles of 96 pixels do not fit the segmentor \(unet\)"):
        check_methods(recipe("pix2pix_seg", size=(96, 96)), (96, 96))
    with pytest.raises(UserError, match=r"tiles of 96 pixels do not fit the segmentor \(unet\)"):
        check_methods(recipe("pix2pix", size=(96, 96), segmentor_network="dynunet"), (96, 96))
    check_methods(recipe("pix2pix_seg", size=(96, 96), segmentor="named"), (96, 96))
    with pytest.raises(UserError, match=r"^method\.segmentor_network: resnet-34 .* use unet or dynunet$"):
        check_methods(recipe("metgan", "crop", (128,) * 3, segmentor_network="resnet-34"), (128,) * 3)


@pytest.mark.parametrize("name", [*ROWS, "segmentor"])
def test_crops_train_and_translate(name):
    """Of the shortest edges, one of them twice as long: more values would show nothing more."""
    edge = shortest(recipe(name, "crop", (64,) * 3))
    edges = (edge, edge, 2 * edge)
    settings = recipe(name, "crop", edges)
    method, data = build(settings), batch(edges=edges)
    check_trains(method, data)
    made = method.eval().translate(data)
    shown = method.pictures(data)
    if name == "segmentor":
        assert (made.shape, made.dtype) == ((2, *edges), torch.int64)
    else:
        assert made.shape == data["tumour"].shape
        assert made.abs().max() <= 1
        cycled = method.cycle(data, made)
        assert (cycled is not None) == ROWS[name].cycle
        assert cycled is None or cycled.shape == made.shape
    assert {picture.shape for picture in shown.values()} == {(2, 1, *edges)}

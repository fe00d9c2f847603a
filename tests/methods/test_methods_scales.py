"""How many scales an image has and how large it is at each: the paper's counts, and what is beyond the paper."""

import pytest

from metgan_dist.methods.scales import Scales

SLICE = (25, 33, 42, 54, 70, 90, 117, 150, 194, 250)  # 250 x 0.1^(k/9), rounded up
SMALL = (25, 32, 40, 51, 64, 81, 102, 128)


@pytest.mark.parametrize(("edge", "edges", "factor"), [(256, SLICE, 0.774), (128, SMALL, 0.792)])
def test_squares_have_the_scales_of_the_released_code(edge, edges, factor):
    scales = Scales.of((edge, edge))
    assert len(scales) == len(edges)
    assert scales.edges == tuple((own, own) for own in edges)
    assert scales.factor == pytest.approx(factor, abs=5e-4)


def test_the_shorter_edge_is_25_at_the_coarsest_and_the_longer_250_at_the_finest():
    for shape in ((320, 448), (448, 320), (100, 300), (64, 65), (1000, 999)):
        scales = Scales.of(shape)
        assert min(scales.edges[0]) == 25
        assert max(scales.edges[-1]) == min(250, max(shape))
        assert 0.6 < scales.factor < 0.9
        for coarser, finer in zip(scales.edges, scales.edges[1:], strict=False):
            assert all(one <= other for one, other in zip(coarser, finer, strict=True))


def test_an_image_of_25_pixels_has_two_scales_of_its_size():
    assert Scales.of((25, 25)).edges == ((25, 25), (25, 25))


def test_the_depth_of_a_volume_shrinks_with_the_plane_but_not_below_25():
    scales = Scales.of((64, 128, 128))
    assert [edges[1] for edges in scales.edges] == list(SMALL)
    assert [edges[0] for edges in scales.edges] == [25, 25, 25, 26, 32, 41, 51, 64]
    assert Scales.of((64, 64, 64)).edges[0] == (25, 25, 25)


def test_other_sizes_and_steps_are_the_users():
    scales = Scales.of((128, 128), coarsest=16, finest=64, factor=0.5)
    assert [edges[0] for edges in scales.edges] == [16, 26, 41, 64]  # from 128 three halvings less one, and one more
    assert scales.factor == pytest.approx(4 ** (-1 / 3))


@pytest.mark.parametrize(
    ("shape", "told"),
    [((24, 64), "an edge of 24 pixels is shorter"), ((20, 64, 64), "an edge of 20 "),
     ((60, 1000), "an edge of 15 pixels, once the longest of 1000 is brought to 250, is shorter")],
)  # fmt: skip
def test_an_edge_shorter_than_the_coarsest_scale_is_refused(shape, told):
    with pytest.raises(ValueError, match=told):
        Scales.of(shape)


def test_another_image_has_pixels_of_the_same_size_at_each_scale():
    scales = Scales.of((256, 256))
    assert scales.of_image((256, 256)) == scales.edges
    assert [edges[0] for edges in scales.of_image((512, 256))] == pytest.approx([2 * own for own in SLICE], abs=1)
    assert [edges[1] for edges in scales.of_image((512, 256))] == list(SLICE)

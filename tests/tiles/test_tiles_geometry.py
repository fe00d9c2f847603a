import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.geometry import axis_starts, plan_tiles


@pytest.mark.parametrize(
    ("length", "box", "stride", "edge", "starts"),
    [
        (10, 4, 4, "shift", [0, 4, 6]),
        (10, 4, 4, "drop", [0, 4]),
        (10, 4, 4, "pad", [0, 4, 8]),
        (12, 4, 4, "shift", [0, 4, 8]),
        (12, 4, 4, "pad", [0, 4, 8]),
        (4, 4, 4, "drop", [0]),
        (3, 4, 4, "pad", [0]),
        (11, 4, 2, "shift", [0, 2, 4, 6, 7]),
        (9, 4, 8, "pad", [0, 8]),
    ],
)
def test_boxes_along_an_axis_lie_where_the_edge_rule_puts_them(length, box, stride, edge, starts):
    assert axis_starts(length, box, stride, edge) == starts


def test_crops_lie_in_no_plane_to_take_a_range_over(mistake):
    crops = {"kind": "crop", "size": (4, 4, 4)}
    with mistake("tiles.normalise_over: plane: crops lie in no plane"):
        plan_tiles(Tiles(**crops, normalise_over="plane"), "v", (8, 8, 8))
    assert len(plan_tiles(Tiles(**crops, normalise_over="tile"), "v", (8, 8, 8))) == 8


def test_cubic_projections_of_three_views_cover_the_same_cubes():
    plans = plan_tiles(Tiles(size=(10,), views=("z", "y", "x")), "v", (20, 10, 30))
    assert len(plans) == 3 * 6
    by_view = {view: [plan.region for plan in plans if plan.view == view] for view in "zyx"}
    assert by_view["z"] == by_view["y"] == by_view["x"]
    assert by_view["z"][0] == ((0, 10), (0, 10), (0, 10))
    assert by_view["z"][-1] == ((10, 20), (0, 10), (20, 30))
    assert [plan.index for plan in plans] == list(range(18))


def test_a_flat_projection_seen_along_y_takes_its_rows_from_z_and_columns_from_x():
    plans = plan_tiles(Tiles(size=(4, 6), depth=5, views=("y",)), "v", (4, 10, 6))
    assert [plan.region for plan in plans] == [((0, 4), (0, 5), (0, 6)), ((0, 4), (5, 10), (0, 6))]
    assert [plan.plane for plan in plans] == [0, 5]
    assert plans[0].shape == (4, 6)


def test_slices_are_single_planes_at_the_step_and_never_shifted():
    plans = plan_tiles(Tiles(kind="slice", size=(8,), step=3), "v", (8, 8, 8))
    assert [plan.region[0] for plan in plans] == [(0, 1), (3, 4), (6, 7)]


def test_padding_is_stated_where_a_tile_leaves_the_volume():
    plans = plan_tiles(Tiles(kind="slice", size=(8,), edge="pad"), "v", (1, 12, 5))
    assert [(plan.region, plan.pad) for plan in plans] == [
        (((0, 1), (0, 8), (0, 5)), ((0, 0), (0, 0), (0, 3))),
        (((0, 1), (8, 12), (0, 5)), ((0, 0), (0, 4), (0, 3))),
    ]


def test_resampling_plans_in_target_voxels_and_reads_source_voxels():
    # 2 um -> 4 um in plane: 8 target pixels are 16 source voxels; z is left at 5 um.
    plans = plan_tiles(Tiles(kind="slice", size=(8,), spacing=(5, 4, 4)), "v", (3, 40, 16), (5.0, 2.0, 2.0))
    assert {plan.region[1] for plan in plans} == {(0, 16), (16, 32), (24, 40)}
    assert {plan.region[2] for plan in plans} == {(0, 16)}
    assert all(plan.shape == (8, 8) for plan in plans)


def test_resize_brings_the_longest_edge_to_its_size():
    assert plan_tiles(Tiles(size=(30,), depth=1, resize=16), "v", (1, 30, 30))[0].shape == (16, 16)
    assert plan_tiles(Tiles(kind="crop", size=(8, 16, 16), resize=8), "v", (8, 16, 16))[0].shape == (4, 8, 8)


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        (Tiles(kind="slice", size=(64,)), ["tiles.size: 64", "'brain'", "64 voxels along y", "32"]),
        (Tiles(size=(32,)), ["tiles.size: 32", "along z", "it has 8", "set tiles.depth"]),
        (Tiles(size=(16,), depth=9), ["tiles.depth: 9", "'brain'", "it has 8"]),
        (Tiles(kind="slice", size=(16,), spacing=(1, 1, 1)), ["tiles.spacing", "'brain'", "no voxel spacing"]),
        (Tiles(kind="slice", size=(4,), stride=(1, 2, 3)), ["tiles.stride"]),
    ],
)
def test_a_tile_that_cannot_be_cut_is_one_line_that_names_the_field(tiles, words):
    with pytest.raises(UserError) as caught:
        plan_tiles(tiles, "brain", (8, 32, 48))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)

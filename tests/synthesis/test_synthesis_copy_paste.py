"""Copy-paste: lesions raised in the brains' own images, by as much as real ones are, and nothing else changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from brain_sets import SHAPE, WHITE, asked_of, cut_brains, lesion_at, painted, read, recipe_of, tissue_map
from mask_sets import write_masks
from two_domains import cut_here
from unmapped_brains import SHAPE as HEAD
from unmapped_brains import head, recipe_of_heads, write_heads

from metgan_dist.errors import UserError
from metgan_dist.synthesis.brain_plan import stroke_cases
from metgan_dist.synthesis.copy_paste import brighter, lesion_ratio, measure, raised
from metgan_dist.synthesis.synthesis import planned_synthesis
from metgan_dist.volumes.dataset import volume_refs


@pytest.fixture(scope="module")
def pasted(tmp_path_factory):
    """A folder with brains, of which one has a lesion twice as bright as it was, masks that fit, and tiles."""
    folder = tmp_path_factory.mktemp("pasted")
    tiles = cut_brains(folder, bright=2)
    write_masks(folder / "masks", 2, {0: lesion_at(1, 6, 6), 1: lesion_at(4, 20, 7)})
    return folder, tiles


def asked(pasted, out, **synthesis):
    folder, tiles = pasted
    return asked_of(folder, out, **{"model": "copy-paste", "tiles": tiles.uri, "gain": [1.5, 2], **synthesis})


def box(shape=(3, 9, 9)):
    """All of a middle square of 3 x 3 voxels in the middle plane."""
    lesion = np.zeros(shape, bool)
    lesion[1, 3:6, 3:6] = True
    return lesion


def test_without_a_border_each_voxel_of_a_lesion_is_raised_and_no_other():
    image = np.random.default_rng(0).uniform(50, 150, (3, 9, 9)).astype(np.float32)
    made = raised(image, box(), 1.75, 0)
    assert np.array_equal(made[~box()], image[~box()])
    assert np.allclose(made[box()], 1.75 * image[box()], rtol=1e-6)


def test_a_border_fades_in_the_plane_and_keeps_the_mean_of_the_lesion():
    image = np.full((3, 9, 9), 100, np.float32)
    made = raised(image, box(), 1.75, 0.5)
    assert made[box()].mean() == pytest.approx(175)
    row = made[1, 4]
    assert row[4] > row[3] > row[2] > row[1] > row[0] == 100  # two pixels: four of its half pixels
    assert row[3] - row[2] > 25  # the edge is where the mask has it
    assert np.array_equal(made[[0, 2]], image[[0, 2]])
    assert np.array_equal(made[:, ::-1], made)


def test_the_ratio_of_a_lesion_is_to_the_parenchyma_around_it_in_its_planes():
    """Means of 30 and 20; what touches the lesion, what is far, what is fluid and other planes say nothing."""
    label, image = np.full((3, 24, 24), 1), np.full((3, 24, 24), 20.0)
    label[1, 9:15, 9:15] = 3
    image[1, 9:15, 9:12], image[1, 9:15, 12:15] = 25, 35
    label[1, 2:8, 9:15], image[1, 2:8, 9:15] = 2, 5
    image[1, 15, 9:15] = 999  # the next row
    image[:, :, :2], image[[0, 2]] = 999, 999
    assert lesion_ratio(image, label, 3, {1}, least=20) == pytest.approx(1.5)
    assert lesion_ratio(image, label, 3, {1}, least=37) is None
    assert lesion_ratio(image, label, 3, {4}, least=20) is None
    assert lesion_ratio(np.zeros_like(image), label, 3, {1}, least=20) is None


def test_beyond_the_lesions_reach_the_image_is_the_brains_own_and_within_it_is_raised_as_drawn(pasted, tmp_path):
    folder, _ = pasted
    plan = planned_synthesis(asked(pasted, tmp_path, border=0))
    _, made = painted(plan, tmp_path)
    assert {brain.ref.id for brain in plan.plan} == {"h0", "h1", "h2"}
    for one, brain in zip(made, plan.plan, strict=True):
        image, lesion, tissue = (read(tmp_path, f"{one['id']}{kind}")[0] for kind in ("", "-lesion", "-tissue"))
        own = read(folder / "brains", brain.ref.id)[0]
        ratio, inside = one["image"]["ratio"], slice(1, -1)  # the margin is empty
        assert 1.5 <= ratio <= 2
        assert image.dtype == own.dtype
        there = lesion[inside] > 0
        assert np.count_nonzero(there) == one["laid"][0]["voxels"] == 72
        assert (tissue[lesion > 0] == WHITE).all()
        assert np.array_equal(image[inside][~there], own[inside][~there])
        assert np.abs(image[inside][there] - ratio * own[inside][there]).max() < 0.55
    assert len({one["image"]["ratio"] for one in made}) == 5


def test_with_a_border_only_two_pixels_around_a_lesion_change_too(pasted, tmp_path):
    folder, _ = pasted
    plan = planned_synthesis(asked(pasted, tmp_path, count=1))
    painted(plan, tmp_path)
    image, lesion = (read(tmp_path, f"stroke-000000{kind}")[0] for kind in ("", "-lesion"))
    changed = image != read(folder / "brains", plan.plan[0].ref.id)[0]
    z, y, x = (np.flatnonzero(lesion.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    near = np.zeros(SHAPE, bool)
    near[z[0] : z[-1] + 1, y[0] - 2 : y[-1] + 3, x[0] - 2 : x[-1] + 3] = True
    assert not changed[1:-1][~near[1:-1]].any()
    assert changed[lesion > 0].all()
    assert changed[1:-1].sum() > (lesion > 0).sum()


def test_tiles_cut_from_what_was_made_have_the_lesion_where_it_was_raised(pasted, tmp_path):
    plan = planned_synthesis(asked(pasted, tmp_path, count=2))
    painted(plan, tmp_path / "made")
    cut = cut_here(recipe_of(tmp_path / "made"), tmp_path / "tiles")
    expected = tissue_map()[1:-1].copy()
    expected[read(tmp_path / "made", "stroke-000001-lesion")[0][1:-1] > 0] = 3
    rows = cut.index[cut.index["volume"] == "stroke-000001"].sort_values("z0").index
    assert np.array_equal(np.stack([cut.load(row)["label"] for row in rows]), expected)


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(pasted, tmp_path):
    one, _ = painted(planned_synthesis(asked(pasted, tmp_path)), tmp_path / "one")
    two, _ = painted(planned_synthesis(asked(pasted, tmp_path)), tmp_path / "two")
    assert one == two
    painted(planned_synthesis(asked(pasted, tmp_path, count=7)), tmp_path / "more")
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "more" / path.name).read_bytes()
    assert painted(planned_synthesis(asked(pasted, tmp_path, seed=1)), tmp_path / "other")[0] != one


def test_without_a_gain_the_training_splits_stroke_cases_are_measured(pasted, tmp_path):
    _, tiles = pasted
    plan = planned_synthesis(asked(pasted, tmp_path, gain=None))
    (case,) = plan.way.cases
    assert (case.name, case.patient, len(case.rows)) == ("s0", "q0", 8)
    ratio = measure(tiles.uri, 3, plan.job.parenchyma, 20, {}, case)
    assert ratio == pytest.approx(2, abs=0.05)
    assert plan.facts["measured"] == {"volumes": ["s0"], "patients": ["q0"]}
    assert "measured" not in planned_synthesis(asked(pasted, tmp_path)).facts
    ready = replace(plan, job=replace(plan.job, images=replace(plan.way.images, ratios=(ratio,))))
    _, made = painted(ready, tmp_path)
    assert {one["image"]["ratio"] for one in made} == {round(ratio, 4)}


def test_lesions_that_are_no_brighter_are_left_out():
    assert brighter([1.8, None, 0.9, 1.2]) == (1.2, 1.8)
    with pytest.raises(UserError, match=r"synthesis\.gain: none of 2 stroke case\(s\) .* say how bright lesions are"):
        brighter([0.9, None])


def test_the_data_set_says_that_no_model_made_it_and_how_bright_each_lesion_is(pasted, tmp_path):
    plan = planned_synthesis(asked(pasted, tmp_path))
    _, made = painted(plan, tmp_path)
    written = yaml.safe_load((tmp_path / "dataset.yaml").read_text())["synthesis"]
    assert written["model"] == {"uri": None, "sha256": None, "method": "copy-paste", "run": None}
    assert written["settings"]["gain"] == [1.5, 2]
    assert "batch_size" not in written["settings"]
    assert [one["ratio"] for one in written["volumes"]] == [one["image"]["ratio"] for one in made]
    assert plan.tags == {"generator": "copy-paste"}
    json.dumps(plan.facts)


def test_a_set_over_maps_of_tissues_that_were_made_says_so(tmp_path):
    tiles = cut_here(recipe_of_heads(write_heads(tmp_path / "brains")), tmp_path / "tiles")
    mask = np.zeros(HEAD, np.uint8)
    mask[1:3, 14:18, 30:34] = 1
    write_masks(tmp_path / "masks", 1, {0: mask})
    asked_for = asked_of(tmp_path, tmp_path, model="copy-paste", tiles=tiles.uri, gain=[1.5, 2], count=1)
    plan = planned_synthesis(asked_for)
    _, (made,) = painted(plan, tmp_path / "made")
    assert (plan.plan[0].ref.id, made["laid"][0]["voxels"]) == ("h", 32)
    written = yaml.safe_load((tmp_path / "made/dataset.yaml").read_text())
    assert written["synthesis"]["tissue_map"] == "kmeans"
    assert "tissue_map" not in written  # the maps are files now
    assert (read(tmp_path / "made", f"{made['id']}-tissue")[0] == head()).mean() > 0.99


@pytest.mark.parametrize(
    ("synthesis", "said"),
    [
        ({"masks": None}, "synthesis.masks: none given, and copy-paste needs a data set of lesion masks"),
        ({"tiles": None}, "synthesis.tiles: none given, and copy-paste needs slices of healthy brains"),
        ({"batch_size": 4}, "synthesis.batch_size: copy-paste raises lesions in images that there are; leave it out"),
        ({"model": "runs/metgan-1"}, "synthesis.gain: is for copy-paste as synthesis.model; leave it out"),
        ({"anatomies": ["s0"]}, "synthesis.anatomies: volume 's0' has a lesion of its own; name healthy ones"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(pasted, tmp_path, synthesis, said):
    with pytest.raises(UserError) as raised_error:
        planned_synthesis(asked(pasted, tmp_path, **synthesis))
    assert str(raised_error.value).startswith(said)
    assert "\n" not in str(raised_error.value)


def test_tiles_without_a_stroke_case_need_a_gain(tmp_path):
    tiles = cut_brains(tmp_path)
    rows = tiles.index["volume"] == "s0"
    tiles.index.loc[rows, "split"] = "val"
    refs = {ref.id: ref for ref in volume_refs(recipe_of(tmp_path / "brains").data)}
    with pytest.raises(UserError, match=r"synthesis\.gain: .* has no stroke case that is trained on"):
        stroke_cases(tiles, refs, "lesion")

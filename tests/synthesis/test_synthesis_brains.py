"""Stroke volumes: lesions within the parenchyma of healthy brains, drawn whole, in place, known by whose they are."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from brain_sets import (
    AFFINE,
    GRID,
    LESION,
    SHAPE,
    WHITE,
    asked_of,
    cut_brains,
    lesion_at,
    painted,
    read,
    recipe_of,
    tissue_map,
    write_brains,
)
from mask_sets import write_masks
from PIL import Image
from two_domains import cut_here
from untrained import write_untrained

from metgan_dist.errors import UserError
from metgan_dist.synthesis.brain_plan import brains_of
from metgan_dist.synthesis.brains import BrainSynthesis
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.synthesis import planned_synthesis


def write_run(folder, recipe, tiles):
    """The finished run of a translator that took no step."""
    checkpoint = write_untrained(folder / f"train/{recipe.method.name}/images-000000000", recipe)
    (folder / "run.json").write_text(json.dumps({"job": "train_metgan", "mlflow_run_id": "1" * 32, "recipe": {}}))
    made = {"status": "finished", "artefacts": {"tiles": tiles.uri, "best_checkpoint": checkpoint}}
    (folder / "result.json").write_text(json.dumps(made))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with brains, masks, the brains' tiles, and the run of an untrained translator."""
    folder = tmp_path_factory.mktemp("learned")
    tiles = cut_brains(folder)
    # The first two fit wherever they are laid; the third lies in the fluid, in the middle of either side.
    masks = {0: lesion_at(1, 6, 6), 1: lesion_at(4, 20, 7), 2: lesion_at(3, 13, 13)}
    write_masks(folder / "masks", 3, masks)
    write_run(folder / "run", recipe_of(folder / "brains"), tiles)
    return folder, tiles


def asked(folder, out, **synthesis):
    return asked_of(folder, out, **{"model": str(folder / "run"), "batch_size": 3, **synthesis})


def test_lesions_lie_in_the_parenchyma_of_healthy_training_brains(learned, tmp_path):
    folder, _ = learned
    plan = planned_synthesis(asked(folder, tmp_path))
    assert isinstance(plan, BrainSynthesis)
    assert sorted(brain.ref.id for brain in plan.brains) == ["h0", "h1", "h2"]  # neither the ill nor the held-out
    _, made = painted(plan, tmp_path)
    for one in made:
        (laid,) = one["laid"]
        lesion, tissue = (read(tmp_path, f"{one['id']}-{kind}")[0] for kind in ("lesion", "tissue"))
        assert laid["mask"] in ("m00", "m01")
        assert np.count_nonzero(lesion) == laid["voxels"] == 72
        assert (tissue[lesion > 0] == WHITE).all()
        assert np.array_equal(tissue[1:-1], tissue_map()[1:-1])
        assert lesion.shape == SHAPE  # the whole grid, its margin empty
        assert not lesion[[0, -1]].any()
    assert {one["laid"][0]["mirrored"] for one in made} == {True, False}


def test_the_preview_shows_the_volumes_that_were_made(learned, tmp_path):
    """Three columns, and four at most of five volumes: a volume a row, in three cuts each."""
    folder, _ = learned
    plan = planned_synthesis(asked(folder, tmp_path, pictures=4))
    _, made = painted(plan, tmp_path)
    picture = Image.open(io.BytesIO(plan.preview(replace(plan.job, folder=str(tmp_path)), made)))
    assert picture.width > 3 * GRID[2]
    assert picture.height > 4 * GRID[1]


def test_tiles_cut_from_what_was_made_are_the_very_label_maps(learned, tmp_path):
    folder, _ = learned
    plan = planned_synthesis(asked(folder, tmp_path, count=2))
    painted(plan, tmp_path / "made")
    cut = cut_here(recipe_of(tmp_path / "made"), tmp_path / "tiles")
    assert len(cut.index) == 2 * GRID[0]
    assert set(cut.index["split"]) == {"train"}
    expected = tissue_map()[1:-1].copy()
    lesion = read(tmp_path / "made", "stroke-000000-lesion")[0][1:-1]
    expected[lesion > 0] = LESION
    rows = cut.index[cut.index["volume"] == "stroke-000000"].sort_values("z0").index
    assert np.array_equal(np.stack([cut.load(row)["label"] for row in rows]), expected)
    image, affine = read(tmp_path / "made", "stroke-000000")
    assert np.allclose(affine, AFFINE)
    assert image.dtype == np.int16


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(learned, tmp_path):
    folder, _ = learned
    one, _ = painted(planned_synthesis(asked(folder, tmp_path)), tmp_path / "one")
    two, _ = painted(planned_synthesis(asked(folder, tmp_path)), tmp_path / "two")
    assert one == two
    painted(planned_synthesis(asked(folder, tmp_path, count=7)), tmp_path / "more")
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "more" / path.name).read_bytes()
    other, _ = painted(planned_synthesis(asked(folder, tmp_path, seed=1)), tmp_path / "other")
    assert other != one


def test_all_slices_of_a_volume_have_one_latent_vector(learned, tmp_path):
    """Two slices with the same label map are drawn alike, and otherwise with another seed."""
    folder, _ = learned
    drawn = planned_synthesis(asked(folder, tmp_path)).way.images
    replica = Replica(drawn.model, None)
    replica.keep(replica.method.inference)
    label = np.stack([tissue_map()[4]] * 5)
    one, other = (replica.draw_slices(label, at_once=2, seed=seed)[0] for seed in (0, 1))
    assert np.abs(one - one[:1]).max() < 1e-6
    assert np.abs(one - other).max() > 1e-4  # of an untrained network, whose images are nearly grey


def test_the_data_set_says_whose_brain_and_whose_lesion_is_in_a_volume(learned, tmp_path):
    folder, tiles = learned
    plan = planned_synthesis(asked(folder, tmp_path))
    painted(plan, tmp_path)
    written = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    made = written["synthesis"]
    assert made["tiles"]["digest"] == tiles.digest
    assert written["tumour"] == plan.data.tumour  # or its tiles would not do beside the real ones
    assert made["masks"]["seen"] == {"volumes": ["m00", "m01", "m02"], "patients": ["p00", "p01", "p02"]}
    for volume, entry in zip(made["volumes"], written["volumes"], strict=True):
        assert volume["patient"] == entry["patient"] == volume["volume"].replace("h", "p")
        assert volume["lesions"][0]["mask"] in ("m00", "m01")


@pytest.mark.parametrize(
    ("synthesis", "said"),
    [
        ({"merged": 1}, "synthesis.merged: lesions are taken from synthesis.masks as they are; leave it out"),
        ({"anatomies": ["s0"]}, "synthesis.anatomies: volume 's0' has a lesion of its own; name healthy ones"),
        ({"anatomies": ["h3"]}, "synthesis.anatomies: volume 'h3' has no training tiles (test only)"),
        ({"masks": "nowhere"}, "not found; check data.path"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(learned, tmp_path, synthesis, said):
    folder, _ = learned
    with pytest.raises(UserError) as raised:
        planned_synthesis(asked(folder, tmp_path, **synthesis))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_masks_of_a_patient_who_is_held_out_are_refused(learned, tmp_path):
    """h3 is the test brain, of patient p3."""
    folder, _ = learned
    masks = write_masks(tmp_path / "masks", 4)
    text = (masks / "dataset.yaml").read_text()
    (masks / "dataset.yaml").write_text(text.replace("patient: p03", "patient: p3"))
    with pytest.raises(UserError, match=r"synthesis.masks: .*lesions are of patient 'p3', held out in"):
        planned_synthesis(asked(folder, tmp_path, masks=str(masks)))


def test_a_brain_whose_only_label_map_has_a_lesion_is_no_healthy_one(learned, tmp_path):
    folder, _ = learned
    plan = planned_synthesis(asked(folder, tmp_path))
    with pytest.raises(UserError, match=r"h.: its label map has a lesion of its own; name healthy brains"):
        painted(replace(plan, job=replace(plan.job, lesion=WHITE)), tmp_path / "made")


def test_copy_paste_gives_the_same_brains_the_same_lesions(learned, tmp_path):
    """With the seed, tiles and masks of a translator's set the images differ alone."""
    folder, tiles = learned
    own = planned_synthesis(asked(folder, tmp_path))
    other = {"model": "copy-paste", "tiles": tiles.uri, "gain": [1.5, 2]}
    pasted = planned_synthesis(asked_of(folder, tmp_path, **other))
    assert [brain.ref.id for brain in own.plan] == [brain.ref.id for brain in pasted.plan]
    for plan, name in ((own, "drawn"), (pasted, "pasted")):
        painted(plan, tmp_path / name)
    for number in range(5):
        for kind in ("-lesion", "-tissue"):
            one, same = (read(tmp_path / name, f"stroke-{number:06d}{kind}") for name in ("drawn", "pasted"))
            assert np.array_equal(one[0], same[0])
        one, same = (read(tmp_path / name, f"stroke-{number:06d}") for name in ("drawn", "pasted"))
        assert not np.array_equal(one[0], same[0])
        assert np.array_equal(one[1], same[1])


def test_a_lesion_that_fits_nowhere_names_the_brain(learned, tmp_path):
    folder, _ = learned
    masks = write_masks(tmp_path / "masks", 1, {0: lesion_at(3, 13, 13)})
    plan = planned_synthesis(asked(folder, tmp_path, masks=str(masks)))
    with pytest.raises(
        UserError, match=r"h.: lesion 1 of 1 fits nowhere: of 1 mask\(s\) tried .* none leaves 20 voxels"
    ):
        painted(plan, tmp_path / "made")


def test_brains_and_strokes_of_a_data_set_are_told_apart_before_anything_is_cut(tmp_path):
    data = recipe_of(write_brains(tmp_path / "brains", healthy=3, stroke=2)).data
    healthy, ill = brains_of(data)
    assert [entry.id for entry in healthy] == ["h0", "h1"]  # h2 is held out
    assert [entry.id for entry in ill] == ["s0", "s1"]
    for counts, lacks in (
        ({"healthy": 1, "stroke": 2}, "no brain without"),
        ({"healthy": 2, "stroke": 0}, "no volume with"),
    ):
        other = recipe_of(write_brains(tmp_path / lacks.split()[1], **counts)).data
        with pytest.raises(UserError, match=f"data.path: .*{lacks} a `lesion`"):
            brains_of(other)

"""Tumours of others in volumes: where they go, what is made of them, and that nothing else changes."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import yaml
from insertion_sets import (
    AFFINE,
    SHAPE,
    asked,
    describe,
    image_of,
    inserted,
    mask_of,
    read,
    save,
    write_donors,
    write_singan,
    write_targets,
)

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe
from metgan_dist.runs.command_line import parse_command
from metgan_dist.synthesis.inserting import inserter, opened_scene
from metgan_dist.synthesis.insertion import VolumeInsertion, insert_tumours
from metgan_dist.synthesis.pasting import blending, tissue_of
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.volume import whole


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with targets, donors on their grid, masks without images, and a SinGAN of a target's slice."""
    folder = tmp_path_factory.mktemp("sets")
    write_targets(folder / "b")
    write_donors(folder / "a")
    write_donors(folder / "masks", images=False)
    return folder, write_singan(folder, folder / "b")


def planned(sets, out, **fields):
    folder, run = sets
    given = {"masks": str(folder / "a"), "model": run, "start_scale": 1, "dilate": 2, "blur": 1, **fields}
    if given["model"] == "naive":
        del given["start_scale"]
    return VolumeInsertion.planned(asked(folder / "b", out, **given))


def test_each_volume_gets_the_tumour_of_its_patient_where_it_lies_and_nothing_else_changes(sets, tmp_path):
    plan = planned(sets, tmp_path)
    assert [(case.name, case.donor.ref.id) for case in plan.cases] == [(f"b{k}-inserted", f"a{k}") for k in range(3)]
    _, made = inserted(plan, tmp_path)
    for k, one in enumerate(made):
        image, affine = read(tmp_path, f"b{k}-inserted-t2")
        source, _ = read(sets[0] / "b", f"b{k}")
        mask, _ = read(sets[0] / "a", f"a{k}-label")
        label, _ = read(tmp_path, f"b{k}-inserted-label")
        assert np.array_equal(affine, AFFINE)
        assert np.array_equal(label, mask)
        touched = np.stack([blending(own > 0, 2, 1) > 0 if own.any() else own > 0 for own in mask])
        assert image.dtype == source.dtype
        assert image[~touched].tobytes() == source[~touched].tobytes()
        assert (image[mask > 0] != source[mask > 0]).mean() > 0.9
        assert one["scores"]["background_difference"] == 0
        assert one["voxels"] == 60
        assert one["slices"] == [1 + k, 3 + k]


def test_a_naive_paste_has_the_level_that_the_tumour_had_in_its_own_volume(sets, tmp_path):
    plan = planned(sets, tmp_path, model="naive", contrast=0.5, tiles={"normalise": "minmax"})
    inserted(plan, tmp_path)
    image, _ = read(tmp_path, "b1-inserted-t2")
    source, _ = read(sets[0] / "b", "b1")
    given, _ = read(sets[0] / "a", "a1")
    mask = read(sets[0] / "a", "a1-label")[0] > 0
    level = (790 - given.min()) / (given.max() - given.min())
    expected = source.min() + 0.5 * level * (float(source.max()) - source.min())
    assert np.abs(image[mask] - expected).max() <= 0.5
    assert np.array_equal(image[~mask], source[~mask])


def test_the_generator_sees_the_slice_at_hand_with_the_paste_and_only_slices_with_tumour(sets, tmp_path):
    seen = []

    def same(image, seed):
        seen.append((image.copy(), seed))
        return image

    plan = planned(sets, tmp_path, seed=5, blur=0)
    inserted(plan, tmp_path, same)
    assert [seed for _, seed in seen] == [[5, k, plane] for k in range(3) for plane in (1 + k, 2 + k)]
    scene = opened_scene(plan.cases[1], plan.job)
    image, _ = seen[2]
    assert image.shape == (1, *SHAPE[1:])
    background = 2 * scene.range.levels(scene.image)[0, 2] - 1
    mask = scene.mask[2]
    assert np.allclose(image[0][~mask], background[~mask], atol=1e-6)
    assert np.allclose(image[0][mask], 2 * scene.tumour[0, 2][mask] - 1, atol=1e-6)
    # What makes nothing anew gives the naive paste inside, up to rounding.
    made = read(tmp_path, "b1-inserted-t2")[0][2]
    assert np.abs(made[mask] - scene.range.intensities(scene.tumour)[0, 2][mask]).max() < 0.51


def test_masks_without_images_have_a_given_level_and_a_place_that_is_given(sets, tmp_path):
    masks = str(sets[0] / "masks")
    fields = {"model": "naive", "masks": masks, "tiles": {"normalise": "minmax"}}
    plan = planned(sets, tmp_path, **fields, intensity=0.75, centre=[3, 20, 22], volumes=["b2"])
    inserted(plan, tmp_path)
    (case,) = plan.cases
    label, _ = read(tmp_path, "b2-inserted-label")
    assert case.donor.ref.id == "a2"
    assert [tuple(ends) for ends in np.argwhere(label)[[0, -1]]] == [(3, 18, 20), (4, 23, 24)]
    source, image = read(sets[0] / "b", "b2")[0], read(tmp_path, "b2-inserted-t2")[0]
    expected = source.min() + 0.75 * (float(source.max()) - source.min())
    assert np.abs(image[label > 0] - expected).max() <= 0.5
    one_file = sets[0] / "masks" / "a0-label.nii.gz"
    (alone,) = planned(sets, tmp_path, **{**fields, "masks": str(one_file)}, intensity=1, volumes=["b1"]).cases
    assert alone.donor.ref.paths == (str(one_file),)


def test_places_in_tissue_and_pairs_are_drawn_by_the_seed_and_the_number(sets, tmp_path):
    fields = {"model": "naive", "pairs": "drawn", "place": "tissue", "tissue": 0.2}
    few, many = (planned(sets, tmp_path, **fields, count=count, seed=3) for count in (4, 9))
    corners = [opened_scene(case, many.job).corner for case in many.cases]
    assert [case.name for case in many.cases[:4]] == [case.name for case in few.cases]
    assert [opened_scene(case, few.job).corner for case in few.cases] == corners[:4]
    assert len(set(corners)) > 5
    assert len({case.donor.ref.id for case in many.cases}) > 1
    assert sorted(case.target.ref.id for case in many.cases) == sorted(["b0", "b1", "b2"] * 3)
    assert {case.name for case in many.cases} == {f"b{k}-inserted{n}" for k in range(3) for n in ("", "-2", "-3")}
    for case in many.cases:
        scene = opened_scene(case, many.job)
        assert tissue_of(scene.range.levels(scene.image), 0.2)[scene.mask].mean() >= 0.95


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(sets, tmp_path):
    seeds = {"a": 0, "b": 0, "c": 1}
    digests = [inserted(planned(sets, tmp_path, seed=seed), tmp_path / name)[0] for name, seed in seeds.items()]
    assert digests[0] == digests[1] != digests[2]
    for path in (tmp_path / "a").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_data_set_says_what_it_was_made_of_and_is_read_as_one(sets, tmp_path):
    plan = planned(sets, tmp_path)
    digest, made = inserted(plan, tmp_path)
    written = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    told = written["synthesis"]
    assert told["voxels_sha256"] == digest
    assert (told["model"]["method"], told["model"]["image"]["volume"]) == ("singan", "b0")
    assert (told["model"]["image"]["plane"], told["model"]["image"]["view"]) == (3, "z")
    assert told["tiles"]["digest"] == plan.learned.tiles.digest
    assert told["masks"]["seen"] == {"volumes": ["a0", "a1", "a2"], "patients": ["p0", "p1", "p2"]}
    one = told["volumes"][1]
    assert (one["volume"], one["patient"], one["mask"], one["corner"]) == ("b1", "p1", "a1", [2, 15, 12])
    assert {"source_sha256", "mask_sha256", "tumour_sha256", "voxels_sha256"} < set(one)
    assert list(one["files"]) == [str(sets[0] / "b" / "b1.nii.gz")]
    assert len(one["mask_files"]) == 2
    assert written["labels"] == {1: "tumour"}
    data = resolve_data(Data(path=str(tmp_path)))
    assert data.tumour == "t2"
    volume = volume_refs(data)[0].open()
    assert volume.read("label", whole(volume)).sum() == made[0]["voxels"]
    assert {ref.split for ref in volume_refs(data)} == {"train"}
    json.dumps(plan.facts)


def test_labels_that_volumes_have_are_kept_below_the_tumour(tmp_path):
    """Of a labelled volume its own tumour stays labelled; other classes where all volumes have labels."""
    entries = []
    for k in range(2):
        save(tmp_path / "b", f"b{k}", image_of(k))
        own = 2 * mask_of(at=(1, 6, 6)) + 3 * mask_of(at=(4, 24, 20))
        save(tmp_path / "b", f"b{k}-label", own)
        entries.append({"id": f"b{k}", "path": {"t2": f"b{k}.nii.gz"}, "label": f"b{k}-label.nii.gz"})
    describe(tmp_path / "b", entries, labels={2: "nerve", 3: "tumour"})
    write_donors(tmp_path / "a", 1)
    fields = {"model": "naive", "masks": str(tmp_path / "a")}
    plan = VolumeInsertion.planned(asked(tmp_path / "b", tmp_path, **fields))
    inserted(plan, tmp_path / "out")
    label, _ = read(tmp_path / "out", "b0-inserted-label")
    assert yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())["labels"] == {1: "nerve", 2: "tumour"}
    assert np.array_equal(label == 1, mask_of(at=(1, 6, 6)) > 0)
    assert np.array_equal(label == 2, (mask_of(at=(4, 24, 20)) + mask_of(at=(1, 14, 12))) > 0)
    assert len(plan.real) == 2
    del entries[1]["label"]
    describe(tmp_path / "b", entries, labels={2: "nerve", 3: "tumour"})
    some = VolumeInsertion.planned(asked(tmp_path / "b", tmp_path, **fields))
    assert "only some volumes have labels" in " ".join(some.lines)
    inserted(some, tmp_path / "some")
    label, _ = read(tmp_path / "some", "b0-inserted-label")
    assert np.array_equal(label == 1, (mask_of(at=(4, 24, 20)) + mask_of(at=(1, 14, 12))) > 0)
    assert yaml.safe_load((tmp_path / "some/dataset.yaml").read_text())["labels"] == {1: "tumour"}


def test_a_volumes_own_tumour_may_get_another_contrast(tmp_path):
    write_targets(tmp_path / "b", 1, labelled=1)
    recipe = asked(tmp_path / "b", tmp_path, model="naive", contrast=0.5, tiles={"normalise": "minmax"})
    plan = VolumeInsertion.planned(recipe)
    inserted(plan, tmp_path / "out")
    source, image = read(tmp_path / "b", "b0")[0], read(tmp_path / "out", "b0-inserted-t2")[0]
    own = read(tmp_path / "b", "b0-label")[0] > 0
    assert np.array_equal(image[~own], source[~own])
    assert np.abs((image[own] - source.min()) - 0.5 * (source[own] - source.min())).max() <= 0.5


def test_a_pyramid_of_volumes_sees_the_tumour_with_its_surroundings_at_once(tmp_path):
    shape = (30, 60, 32)
    write_targets(tmp_path / "b", 1, shape)
    run = write_singan(tmp_path, write_targets(tmp_path / "learned", 1, (28, 28, 28)), (28, 28, 28))
    save(tmp_path / "masks", "m", mask_of(shape, (14, 30, 14)))
    fields = {"model": run, "start_scale": 1, "dilate": 1, "blur": 0, "intensity": 0.9}
    plan = VolumeInsertion.planned(
        asked(tmp_path / "b", tmp_path, masks=str(tmp_path / "masks" / "m.nii.gz"), **fields)
    )
    assert plan.job.learned == (28, 28, 28)
    fed = []

    def noted(image, seed):
        fed.append(image.shape)
        return np.zeros_like(image)

    inserted(plan, tmp_path / "out", noted)
    assert fed == [(1, 30, 40, 32)]  # 6 rows of tumour, 1 of the mask and 16 of context on either side
    source, image = read(tmp_path / "b", "b0")[0], read(tmp_path / "out", "b0-inserted-t2")[0]
    touched = blending(mask_of(shape, (14, 30, 14)) > 0, 1, 0) > 0
    assert np.array_equal(image[~touched], source[~touched])
    assert touched[13].any()
    assert len(np.unique(image[touched])) == 1
    _, made = inserted(plan, tmp_path / "again")
    assert made[0]["scores"]["background_difference"] == 0


def test_a_view_along_another_axis_goes_through_its_own_slices(tmp_path):
    write_targets(tmp_path / "b", 1, (30, 28, 34))
    run = write_singan(tmp_path, tmp_path / "b", (30, 34), plane=12, tiles={"views": "y"})
    save(tmp_path / "masks", "m", mask_of((30, 28, 34), (14, 10, 14)))
    fields = {"model": run, "start_scale": 1, "dilate": 1, "blur": 0, "intensity": 0.9}
    masks = str(tmp_path / "masks" / "m.nii.gz")
    plan = VolumeInsertion.planned(asked(tmp_path / "b", tmp_path, masks=masks, **fields))
    fed = []
    _, made = inserted(plan, tmp_path / "out", lambda image, seed: fed.append((image.shape, seed[2])) or image)
    assert fed == [((1, 30, 34), plane) for plane in range(10, 16)]
    assert np.array_equal(read(tmp_path / "out", "b0-inserted-label")[0], mask_of((30, 28, 34), (14, 10, 14)))
    assert made[0]["slices"] == [10, 16]


def test_volumes_without_an_affine_are_written_as_ome_zarr(sets, tmp_path):
    plan = planned(sets, tmp_path, format="ome-zarr", volumes=["b0"])
    _, (made,) = inserted(plan, tmp_path)
    ref = volume_refs(resolve_data(Data(path=str(tmp_path))))[0]
    volume = ref.open()
    source, _ = read(sets[0] / "b", "b0")
    image = volume.read("tumour", whole(volume))
    mask = read(sets[0] / "a", "a0-label")[0]
    assert np.array_equal(volume.read("label", whole(volume)), mask)
    assert np.array_equal(image[4:], source[4:])
    assert (volume.spacing.z, volume.spacing.x) == (1.5, 0.5)
    nifti = inserted(planned(sets, tmp_path, volumes=["b0"]), tmp_path / "nifti")[1][0]
    assert made["voxels_sha256"] == nifti["voxels_sha256"]


def test_the_preview_shows_before_pasted_and_inserted(sets, tmp_path):
    plan = planned(sets, tmp_path)
    _, made = inserted(plan, tmp_path)
    assert plan.preview(replace(plan.job, folder=str(tmp_path)), made).startswith(b"\x89PNG")


def test_the_worker_is_made_with_the_pyramid_of_the_run(sets, tmp_path):
    plan = planned(sets, tmp_path, volumes=["b0"])
    one = inserter(replace(plan.job, folder=str(tmp_path / "one")))(plan.cases[0])
    assert one["voxels_sha256"] == inserted(plan, tmp_path / "two")[1][0]["voxels_sha256"]


@pytest.fixture(scope="module")
def misfits(tmp_path_factory):
    """A folder of data sets that do not fit."""
    folder = tmp_path_factory.mktemp("misfits")
    write_donors(folder / "few", 2)
    write_donors(folder / "classes", 3, labels={1: "tumour", 2: "nerve"})
    write_donors(folder / "large", 3)
    for name, voxels in (("a0", image_of(0)), ("a0-label", mask_of())):
        save(folder / "large", name, voxels, AFFINE @ np.diag([3, 3, 3, 1]))
    save(folder / "shallow", "m", mask_of((5, 40, 36)))
    describe(folder / "shallow", [{"id": "m", "path": {"t1": "m.nii.gz"}, "label": "m.nii.gz"}], tumour="t1")
    for name, channels in (("two", ["t1", "t2"]), ("channels", ["t2", "t2b"])):
        paths = {channel: f"{channel}.nii.gz" for channel in channels}
        for k, channel in enumerate(channels):
            save(folder / name, channel, image_of(k))
        save(folder / name, "m", mask_of())
        entry = {"id": "a0", "path": paths, "label": "m.nii.gz"} if name == "two" else {"id": "b0", "path": paths}
        describe(folder / name, [entry], tumour=channels)
    save(folder / "small", "b0", image_of(0, (6, 40, 20)))
    describe(folder / "small", [{"id": "b0", "path": {"t2": "b0.nii.gz"}}])
    save(folder / "all-held", "b0", image_of(0))
    describe(folder / "all-held", [{"id": "b0", "path": {"t2": "b0.nii.gz"}, "split": "unseen"}])
    return folder


def thick(folder):
    """A target whose voxels are three times as large."""
    save(folder / "thick", "b0", image_of(0), AFFINE @ np.diag([3, 3, 3, 1]))
    return describe(folder / "thick", [{"id": "b0", "path": {"t2": "b0.nii.gz"}}])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": None}, "insertion.model: none given; name a run of singan, or naive"),
        ({"start_scale": None}, "insertion.start_scale: none given; 1 changes most"),
        ({"start_scale": 9}, "insertion.start_scale: start scale 9: the pyramid has scales 1 to 3 to start from"),
        ({"masks": "nowhere"}, "insertion.masks: /"),
        ({"volumes": ["held"]}, "insertion.volumes: volume 'held' is held out (test); name others"),
        ({"volumes": ["b9"]}, "insertion.volumes: no volume 'b9'"),
        ({"tumour": "nerve"}, "insertion.tumour: 'nerve' is no class of the labels of volume 'a0', which have tumour"),
        (
            {"masks": "classes"},
            "insertion.tumour: labels of volume 'a0' have the classes tumour, nerve; say which it is",
        ),
        ({"masks": None}, "insertion.masks: volume 'b0' has no label of its own"),
        ({"masks": "masks"}, "insertion.intensity: mask 'a0' has no image; say how bright tumours are"),
        ({"masks": "few"}, "insertion.pairs: volume 'b2' has no tumour of its own among 2"),
        ({"masks": "shallow", "volumes": ["b0"]}, "insertion.masks: "),
        (
            {"masks": "large", "centre": [3, 20, 18]},
            "insertion.masks: voxels of 'a0' are 4.5 x 1.5 x 1.5 (z, y, x), those of",
        ),
        (
            {"masks": "two", "centre": [3, 20, 18]},
            "insertion.channel: the tumour of 'a0' has 2 channel(s) (t1, t2), volume 'b0' has 1; name",
        ),
        ({"path": "channels", "pairs": "drawn", "intensity": 0.5}, "data.tumour: volume 'b0' has 2 channel(s), and "),
        (
            {"path": "small", "pairs": "drawn", "centre": [3, 20, 10]},
            "data.path: volume 'b0' has slices of 40 x 20 pixels, and the coarsest scale of the",
        ),
        ({"path": "tiles"}, "data.path: "),
        ({"path": "all-held"}, "data.path: "),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(sets, misfits, tmp_path, mistake, fields, said):
    """Fields that are paths are of the sets, or of those that do not fit."""
    folder, run = sets
    given = {"masks": "a", "model": run, "start_scale": 1, **fields}
    data = given.pop("data", {})
    if given["masks"] is not None:
        given["masks"] = str(
            next((at for at in (misfits / given["masks"], folder / given["masks"]) if at.exists()), "no")
        )
    path = given.pop("path", "b")
    place = misfits / path if (misfits / path).exists() else folder / path
    with mistake(said):
        VolumeInsertion.planned(asked(place, tmp_path, data=data, **given))


def test_without_a_data_set_nothing_gets_a_tumour(sets, mistake):
    insertion = {"model": sets[1], "start_scale": 1, "masks": str(sets[0] / "a")}
    with mistake("data.path: none given; name the volumes that are to get tumours"):
        VolumeInsertion.planned(Recipe.model_validate({"insertion": insertion}))


def test_a_volume_that_is_held_out_is_no_image_of_a_singan(sets, tmp_path, mistake):
    """The slice was cut when nothing was held out; now its volume, or another of its patient, is."""
    folder, run = sets
    for entry in ({"id": "b0"}, {"id": "other", "patient": "p0"}):
        save(tmp_path / "b", "b1", image_of(1))
        held = {**entry, "path": {"t2": "b1.nii.gz"}, "split": "test"}
        save(tmp_path / "b", "b2", image_of(2))
        describe(tmp_path / "b", [held, {"id": "b2", "path": {"t2": "b2.nii.gz"}, "patient": "p2"}])
        recipe = asked(tmp_path / "b", tmp_path, model=run, start_scale=1, masks=str(folder / "a"))
        with mistake("insertion.model: ", "has learned a slice of volume 'b0', which is held out (test) in data.path"):
            VolumeInsertion.planned(recipe)


def test_volumes_that_are_held_out_get_no_tumour_and_pixels_of_another_size_are_told(sets, tmp_path):
    plan = planned(sets, tmp_path)
    assert plan.lines == ("left out, because they are held out: held",)
    folder, run = sets
    fields = {"model": run, "start_scale": 1, "masks": str(folder / "a"), "intensity": 0.5}
    save(tmp_path / "m", "m", mask_of(), AFFINE @ np.diag([3, 3, 3, 1]))
    fields["masks"] = str(tmp_path / "m" / "m.nii.gz")
    plan = VolumeInsertion.planned(asked(thick(tmp_path), tmp_path, **fields))
    assert "its pixels are 1.5 along y, those that the pyramid has learned 0.5" in plan.lines[0]


@pytest.mark.parametrize(
    ("fields", "mask", "constant", "said"),
    [
        ({}, np.zeros(SHAPE, np.uint8), False, "insertion.masks: 'm' has no voxel of 'tumour', so that there is no"),
        ({"centre": [0, 20, 20]}, mask_of(at=(0, 0, 0)), False, None),
        ({"centre": [5, 20, 20]}, mask_of(), False, "insertion.centre: the tumour of 'm', 2 x 6 x 5 voxels from z, y,"),
        ({}, mask_of(at=(4, 20, 20)), True, "insertion.volumes: slice 5 of volume 'b0', into which the tumour of 'm'"),
    ],
)
def test_what_voxels_alone_can_tell_is_told_in_a_line(sets, tmp_path, mistake, fields, mask, constant, said):
    image = image_of(0)
    if constant:
        image[5] = 0
    save(tmp_path / "b", "b0", image)
    describe(tmp_path / "b", [{"id": "b0", "path": {"t2": "b0.nii.gz"}}])
    save(tmp_path / "m", "m", mask)
    given = {"model": sets[1], "start_scale": 1, "masks": str(tmp_path / "m" / "m.nii.gz"), "intensity": 0.5}
    plan = VolumeInsertion.planned(asked(tmp_path / "b", tmp_path, **given, **fields))
    if said is None:
        inserted(plan, tmp_path / "out")
        return
    with mistake(said):
        inserted(plan, tmp_path / "out")


def test_a_volume_and_a_mask_file_are_enough(sets, tmp_path, monkeypatch):
    """The default recipe is for a phantom: its channels and labels are not asked of a user's volume."""
    folder, _ = sets
    given = [
        f"--data.path={folder / 'b' / 'b0.nii.gz'}",
        f"--insertion.masks={folder / 'masks' / 'a0-label.nii.gz'}",
        "--insertion.model=naive",
        "--insertion.intensity=0.9",
    ]
    planned_of = []
    monkeypatch.setattr("metgan_dist.synthesis.insertion.run_recipe", lambda *args: planned_of.append(args) or "")
    insert_tumours(parse_command("insert_tumours.py", "", given))
    ((command, _, carry_out, _),) = planned_of
    assert command.recipe.data.tumour == "tumour"  # nobody says how the channel is called, so the record does not
    plan = carry_out.__self__
    assert [(case.name, case.target.ref.tumour) for case in plan.cases] == [("b0-inserted", ("c0",))]


def test_a_volume_of_several_channels_does_not_say_which_gets_the_tumour(sets, tmp_path):
    folder, _ = sets
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE[::-1], 2), np.int16), AFFINE), tmp_path / "two.nii.gz")
    given = [
        f"--data.path={tmp_path / 'two.nii.gz'}",
        f"--insertion.masks={folder / 'masks' / 'a0-label.nii.gz'}",
        "--insertion.model=naive",
        "--insertion.intensity=0.9",
    ]
    with pytest.raises(UserError, match=r"no channel 'tumour'.*c0, c1"):
        insert_tumours(parse_command("insert_tumours.py", "", given))

"""Whole volumes labelled by a segmentor: on their own voxels, as a data set, stopped in the middle and continued."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from insertion_sets import AFFINE, read
from open_runs import Kept
from PIL import Image
from test_synthesis_insertion_run import Here, Stopped
from untrained import write_untrained

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.errors import UserError
from metgan_dist.methods.segmentor import SegmentorNetwork
from metgan_dist.recipe import Data, Recipe, Scaling
from metgan_dist.runs.command_line import parse_command
from metgan_dist.runs.job import Result
from metgan_dist.runs.run_folder import Run
from metgan_dist.scores.surface import surface_distances
from metgan_dist.synthesis import labelled_volumes
from metgan_dist.synthesis.labelled_volumes import VolumeLabels
from metgan_dist.synthesis.labelling import Labeller, most_likely, objects
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.volume import whole

SHAPE = (6, 40, 36)  # z, y, x
CORNERS = {"a": (1, 4, 6), "b": (3, 20, 14), "held": (0, 9, 3)}  # of the bright box of each volume


@pytest.fixture(autouse=True)
def by_brightness(monkeypatch):
    """Segmentors for which what is brighter than the middle of the range is of the one class there is."""
    monkeypatch.setattr(SegmentorNetwork, "probabilities", lambda self, image: (image[:, :1].float() + 1) / 2)


def save(folder, name, voxels):
    """As NIfTI, in millimetres."""
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels.T, AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / f"{name}.nii.gz")


def box(name):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(low, low + size) for low, size in zip(CORNERS[name], (2, 8, 6), strict=True))] = True
    return mask


@pytest.fixture
def data(tmp_path):
    """a, b and held (for the tests): T2 of dark tissue with a bright box, a with its label."""
    for name in CORNERS:
        noise = np.random.default_rng(len(name)).integers(0, 40, SHAPE)
        save(tmp_path / "data", name, np.where(box(name), 900, 100 + noise).astype(np.int16))
    save(tmp_path / "data", "a-label", (7 * box("a")).astype(np.uint8))
    entries = [{"id": name, "path": {"t2": f"{name}.nii.gz"}, "patient": f"p-{name}"} for name in CORNERS]
    entries[0]["label"], entries[2]["split"] = "a-label.nii.gz", "test"
    tree = {"anatomy": "", "tumour": "t2", "labels": {7: "tumour"}, "volumes": entries}
    (tmp_path / "data/dataset.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "data"


@pytest.fixture
def segmentor(tmp_path):
    """segmentor(**tiles) -> the checkpoint of one that was trained on such tiles."""

    def write(data=None, **tiles):
        usual = {"kind": "slice", "size": [32], "normalise": "minmax", "views": "z"}
        tree = {
            "data": {"anatomy": "", "tumour": "t2", "labels": {7: "tumour"}, **(data or {})},
            "tiles": {**usual, **tiles},
            "method": {"name": "segmentor", "segmentor_width": 1 / 16},
        }
        return write_untrained(tmp_path / "segmentor", Recipe.model_validate(tree))

    return write


def planned(data, model, **segmentation):
    tree = {"data": {"path": str(data)}, "segmentation": {"segmentor": model, **segmentation}}
    return VolumeLabels.planned(Recipe.model_validate(tree))


def labelled(plan, folder):
    """(what is known of the volumes, the data set that was written)."""
    job = replace(plan.job, folder=str(folder))
    made = [Labeller(job).label(ref) for ref in plan.refs]
    plan.describe(job, made)
    return made, {ref.id: ref for ref in volume_refs(resolve_data(Data(path=str(folder))))}


@pytest.mark.parametrize(
    "tiles",
    [
        {},
        {"normalise_over": "volume"},
        {"kind": "crop", "size": [6, 32, 32]},
        {"kind": "crop", "size": [4, 16, 16], "spacing": [1.5, 1.0, 1.0]},  # of voxels twice as large in the plane
        {"size": [32], "resize": 64},
    ],
)
def test_a_label_lies_on_the_voxels_of_its_volume(data, segmentor, tmp_path, tiles):
    made, found = labelled(planned(data, segmentor(**tiles)), tmp_path / "out")
    for name, one in zip(CORNERS, made, strict=True):
        label, affine = read(tmp_path / "out", f"{name}-found")
        assert np.array_equal(affine, AFFINE)
        assert label.shape == SHAPE
        assert set(np.unique(label)) == {0, 7}
        outside = ((label == 7) ^ box(name)).sum()
        assert outside <= (24 if {"spacing", "resize"} & set(tiles) else 0), name  # edges, between two voxels
        assert one["voxels"][1] == (label == 7).sum()
    # Held-out volumes are labelled, and are no training data.
    assert set(found) == {"a", "b"}
    opened = found["b"].open()
    assert np.array_equal(opened.read("label", whole(opened)), (read(tmp_path / "out", "b-found")[0] == 7))
    assert np.array_equal(opened.read("tumour", whole(opened)), read(data, "b")[0])
    written = yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())
    assert [(one["id"], one["patient"], one["split"]) for one in written["volumes"]] == [
        ("a", "p-a", "train"),
        ("b", "p-b", "train"),
    ]
    assert written["synthesis"]["model"]["method"] == "segmentor"


def test_volumes_with_labels_of_their_own_are_scored(data, segmentor, tmp_path):
    made, _ = labelled(planned(data, segmentor()), tmp_path / "out")
    assert made[0]["scores"] == {"dice_1": 1.0, "assd_1": 0.0, "hd95_1": 0.0}
    assert made[1]["scores"] == {}
    (thing,) = made[0]["objects"]
    assert (thing["z"], thing["y"], thing["x"], thing["voxels"]) == (1.5, 7.5, 8.5, 96)
    assert thing["mm3"] == pytest.approx(96 * 0.5 * 0.5 * 1.5)
    assert thing["mean_intensity"] == 900


def test_distances_are_in_millimetres(data, segmentor, tmp_path):
    shifted = np.roll(box("a"), 2, axis=2)
    save(data, "a-label", (7 * shifted).astype(np.uint8))
    made, _ = labelled(planned(data, segmentor(), volumes=["a"]), tmp_path / "out")
    maps = [torch.from_numpy(one.astype(np.uint8))[None] for one in (box("a"), shifted)]
    expected = surface_distances(*maps, 2, (1.5, 0.5, 0.5))
    assert made[0]["scores"]["assd_1"] == pytest.approx(float(expected["assd_1"][0]))


def test_an_ome_zarr_has_image_and_label(data, segmentor, tmp_path):
    made, found = labelled(planned(data, segmentor(), volumes=["b"], format="ome-zarr"), tmp_path / "out")
    assert made[0]["entry"] == {"path": "b-found.ome.zarr", "label": "label"}
    volume = found["b"].open()
    assert np.array_equal(volume.read("label", whole(volume)), box("b"))
    assert np.array_equal(volume.read("tumour", whole(volume)), read(data, "b")[0])


def test_separate_images_are_labelled_each_for_itself(segmentor, tmp_path):
    (tmp_path / "images").mkdir()
    for z, plane in enumerate(np.where(box("b"), 220, 30).astype(np.uint8)):
        Image.fromarray(plane).save(tmp_path / "images" / f"p{z}.png")
    plan = planned(tmp_path / "images", segmentor({"tumour": "c0"}))
    assert plan.job.form == "images"
    made, found = labelled(plan, tmp_path / "out")
    # In a stack the two planes would be one object.
    assert [(one["z"], one["voxels"]) for one in made[0]["objects"]] == [(3.0, 48), (4.0, 48)]
    volume = found["images"].open()
    assert np.array_equal(volume.read("label", whole(volume)), box("b"))


def test_of_classes_the_likeliest_counts_and_background_has_the_threshold():
    chances = np.zeros((2, 1, 2, 2), np.float32)
    chances[0, 0] = [[0.6, 0.7], [0.2, 0.5]]
    chances[1, 0] = [[0.9, 0.1], [0.4, 0.0]]
    assert most_likely(chances, (1, 2, 2), 0.5).tolist() == [[[2, 1], [0, 0]]]


def test_objects_are_connected_in_three_dimensions_and_known_by_class():
    label = np.zeros((2, 3, 6), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1  # touch at a corner
    label[0, 2, 4:] = 2
    rows = objects(label, np.arange(36.0).reshape(2, 3, 6), None)
    assert [(row["class"], row["object"], row["voxels"], row["mm3"]) for row in rows] == [
        (1, 1, 2, None),
        (2, 1, 2, None),
    ]
    assert rows[1]["mean_intensity"] == pytest.approx(16.5)


def test_a_run_that_was_stopped_goes_on_with_the_volumes_that_are_missing(data, segmentor, monkeypatch, tmp_path):
    """With tables, means and a picture at its end, and the digest of an undisturbed run."""
    monkeypatch.setattr(labelled_volumes, "Pass", Here)
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 2})
    model, digests = segmentor(), []
    for name, stops in (("whole", [None]), ("stopped", [1, None])):
        for most in stops:
            monkeypatch.setattr(Here, "most", most)
            plan = planned(data, model)
            kept = Kept(
                plan.recipe,
                Run(name, str(tmp_path / name), "segment_volumes", False, "0a", {}),
                plan_resources(Scaling(), 2, 0),
                "",
                Result(),
            )
            if most is not None:
                with pytest.raises(Stopped):
                    plan.carry_out(kept)
                before = (tmp_path / name / "volumes/a-found.nii.gz").stat().st_mtime_ns
                continue
            plan.carry_out(kept)
        digests.append(kept.result.artefacts["voxels_sha256"])
    assert digests[0] == digests[1]
    assert (tmp_path / "stopped/volumes/a-found.nii.gz").stat().st_mtime_ns == before
    assert kept.result.scores["labels"]["dice/tumour"] == 1.0
    assert kept.result.scores["labels"]["objects"] == 3
    table = pd.read_csv(tmp_path / "whole/volumes.csv")
    assert table["voxels/tumour"].tolist() == [96, 96, 96]
    assert pd.read_csv(tmp_path / "whole/objects.csv")["class"].tolist() == ["tumour"] * 3
    assert (tmp_path / "whole/preview.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "whole/labelled/a.json").read_text())["name"] == "a"


def test_a_file_without_a_description_is_enough(data, segmentor, monkeypatch):
    """The default recipe is for a phantom: its channels and labels are not asked of a user's volume."""
    found = []
    monkeypatch.setattr(labelled_volumes, "run_recipe", lambda command, job, work, tags: found.append(work) or "")
    given = [f"--data.path={data / 'b.nii.gz'}", f"--segmentation.segmentor={segmentor({'tumour': 'c0'})}"]
    labelled_volumes.label_volumes(parse_command("segment_volumes.py", "", given), {})
    assert [ref.tumour for ref in found[0].__self__.refs] == [("c0",)]


def test_of_two_domains_the_one_that_is_asked_for_is_labelled(segmentor, tmp_path):
    for name in ("t1", "t2"):
        save(tmp_path / "data", name, np.where(box("a"), 900, 100).astype(np.int16))
    entries = [{"id": name, "domain": name, "path": f"{name}.nii.gz"} for name in ("t1", "t2")]
    tree = {"domains": {"t1": {}, "t2": {}}, "labels": {7: "tumour"}, "volumes": entries}
    (tmp_path / "data/dataset.yaml").write_text(yaml.safe_dump(tree))
    model = segmentor()
    for asked, expected in ((None, "t2"), ("source", "t1"), ("t1", "t1"), ("target", "t2")):
        plan = planned(tmp_path / "data", model, domain=asked)
        assert [ref.id for ref in plan.refs] == [expected]
    _, found = labelled(planned(tmp_path / "data", model, domain="t1"), tmp_path / "out")
    volume = found["t1"].open()
    assert np.array_equal(volume.read("label", whole(volume)), box("a"))


@pytest.mark.parametrize(
    ("segmentation", "tiles", "line"),
    [
        ({"volumes": ["nobody"]}, {}, r"^segmentation\.volumes: .* no volume 'nobody'"),
        ({"domain": "t1"}, {}, r"^segmentation\.domain: 't1', but .* has no domains"),
        ({}, {"kind": "projection", "depth": 4}, r"^segmentation\.segmentor: trained on projections"),
        ({}, {"views": "y,x"}, r"^segmentation\.segmentor: trained on views along y, x"),
        ({}, {"spacing": [1.0, 1.0, 1.0], "kind": "crop", "size": [4, 16, 16]}, None),
    ],
)
def test_what_cannot_be_labelled_is_told_before_any_work(data, segmentor, segmentation, tiles, line):
    if line is None:  # the last case fits, so that the others fail for what they say
        planned(data, segmentor(**tiles), **segmentation)
        return
    with pytest.raises(UserError, match=line):
        planned(data, segmentor(**tiles), **segmentation)


def test_images_of_other_channels_are_a_line(data, segmentor):
    with pytest.raises(UserError, match=r"^segmentation\.segmentor: trained on images of 2 channel"):
        planned(data, segmentor({"tumour": ["t2", "flair"]}))


def test_nifti_is_not_made_of_volumes_that_lie_nowhere(segmentor, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "stack.tif", np.where(box("a"), 900, 100).astype(np.uint16), metadata={"axes": "ZYX"})
    with pytest.raises(UserError, match=r"^segmentation\.format: nifti, but volume 'stack'"):
        planned(tmp_path / "stack.tif", segmentor({"tumour": "c0"}), format="nifti")


def test_a_damaged_volume_is_a_line(data, segmentor):
    content = bytearray((data / "b.nii.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (data / "b.nii.gz").write_bytes(content)
    assert nibabel.load(data / "b.nii.gz").shape == SHAPE[::-1]
    plan = planned(data, segmentor(), volumes=["b"])
    with pytest.raises(UserError, match=r"b\.nii\.gz: cannot be read"):
        Labeller(replace(plan.job, folder=str(data))).label(plan.refs[0])

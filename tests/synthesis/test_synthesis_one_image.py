"""What a SinGAN makes beside insertion: random images, edited pictures, enlargements; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from insertion_sets import SHAPE, image_of, read, write_singan, write_targets
from PIL import Image

from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.one_image import Maker, OneImageSynthesis
from metgan_dist.synthesis.pasting import blending
from metgan_dist.synthesis.synthesis import planned_synthesis

EDGES = SHAPE[1:]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with the SinGAN of slice 3 of a volume, a drawing in it, and its mask."""
    folder = tmp_path_factory.mktemp("learned")
    run = write_singan(folder, write_targets(folder / "b", 1))
    mask = np.zeros(EDGES, np.uint8)
    mask[16:22, 14:19] = 255
    picture = np.where(mask, 500, image_of(0)[3]).astype(np.int16)
    tifffile.imwrite(folder / "paste.tif", picture)
    Image.fromarray((picture // 2).astype(np.uint8)).save(folder / "grey.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return folder, run


def planned(learned, out, **synthesis):
    folder, run = learned
    given = {"model": run, **synthesis}
    for name in ("picture", "picture_mask"):
        if name in given:
            given[name] = str(folder / given[name])
    tree = {"synthesis": given, "insertion": {"dilate": 1, "blur": 1}, "storage": {"path": str(out)}}
    return planned_synthesis(Command(Recipe.model_validate(tree), "x", False, False, given={"synthesis": given}))


def made(plan, folder):
    """The images of a plan, made in this process."""
    assert isinstance(plan, OneImageSynthesis)
    worker = Maker(replace(plan.job, folder=str(folder)))
    facts = [worker.make(number) for number in range(plan.count)]
    return [tifffile.imread(folder / f"{one['id']}.tif") for one in facts], facts


def test_random_images_have_the_type_size_and_range_of_the_one_that_was_learned(learned, tmp_path):
    images, facts = made(planned(learned, tmp_path, count=3), tmp_path)
    own = read(learned[0] / "b", "b0")[0][3]
    assert [one["id"] for one in facts] == [f"sample-00000{k}" for k in range(3)]
    assert {image.shape for image in images} == {EDGES}
    assert {image.dtype for image in images} == {own.dtype}
    assert min(image.min() for image in images) >= own.min() - 1
    assert not np.array_equal(images[0], images[1])
    again, same = made(planned(learned, tmp_path, count=2), tmp_path / "again")
    assert same == facts[:2]
    assert np.array_equal(again[1], images[1])


def test_an_edited_picture_changes_about_its_mask_alone(learned, tmp_path):
    plan = planned(learned, tmp_path, picture="paste.tif", picture_mask="mask.png", start_scale=1, samples=2)
    images, _ = made(plan, tmp_path)
    given = tifffile.imread(learned[0] / "paste.tif")
    touched = blending(np.asarray(Image.open(learned[0] / "mask.png")) > 0, 1, 1) > 0
    for image in images:
        assert image.dtype == given.dtype
        assert np.array_equal(image[~touched], given[~touched])
        assert (image[touched] != given[touched]).mean() > 0.2
    assert not np.array_equal(*images)
    (whole,), _ = made(planned(learned, tmp_path, picture="paste.tif", start_scale=1), tmp_path / "whole")
    assert (whole[~touched] != given[~touched]).mean() > 0.5


def test_a_picture_of_bytes_has_grey_values_and_keeps_them(learned, tmp_path):
    plan = planned(learned, tmp_path, picture="grey.png", picture_mask="mask.png", start_scale=2)
    assert plan.job.picture.ends == (0, 255)
    (image,), _ = made(plan, tmp_path)
    given = np.asarray(Image.open(learned[0] / "grey.png"))
    assert image.dtype == np.uint8
    assert np.array_equal(image[0], given[0])


def test_an_image_or_a_picture_is_enlarged(learned, tmp_path):
    (image,), facts = made(planned(learned, tmp_path, enlarge=1.5), tmp_path)
    assert facts[0]["id"] == "enlarged-000000"
    assert image.shape == (60, 54)
    own = read(learned[0] / "b", "b0")[0][3]
    assert abs(float(image.mean()) - own.mean()) < 60
    (image,), _ = made(planned(learned, tmp_path, enlarge=2, picture="paste.tif"), tmp_path / "picture")
    assert image.shape == (80, 72)


def test_the_preview_has_what_was_learned_given_and_made(learned, tmp_path):
    plan = planned(learned, tmp_path, picture="paste.tif", start_scale=1)
    made(plan, tmp_path)
    assert plan.preview(replace(plan.job, folder=str(tmp_path)), ["edit-000000"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"picture": "paste.tif"}, "synthesis.start_scale: none given"),
        ({"picture": "paste.tif", "start_scale": 9}, "synthesis.start_scale: start scale 9: the pyramid has scales 1"),
        ({"picture": "none.png", "start_scale": 1}, "synthesis.picture: "),
        ({"start_scale": 1}, "synthesis.start_scale: is for a picture that is edited"),
        ({"picture_mask": "mask.png"}, "synthesis.picture_mask: is for a picture that is edited"),
        (
            {"picture": "paste.tif", "start_scale": 1, "enlarge": 2},
            "synthesis.enlarge: a picture is edited or enlarged",
        ),
        ({"picture": "small.png", "start_scale": 1}, "synthesis.picture: "),
        ({"picture": "flat.png", "start_scale": 1}, "synthesis.picture: "),
        ({"picture": "volume.tif", "start_scale": 1}, "synthesis.picture: "),
        ({"picture": "paste.tif", "start_scale": 1, "picture_mask": "empty.png"}, "synthesis.picture_mask: "),
        ({"picture": "paste.tif", "start_scale": 1, "picture_mask": "small.png"}, "synthesis.picture_mask: "),
        ({"samples": 3}, "synthesis.samples: images are drawn; their number is synthesis.count"),
        ({"picture": "paste.tif", "start_scale": 1, "count": 3}, "synthesis.count: of a picture"),
        ({"batch_size": 3}, "synthesis.batch_size: the generator has learned one image"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(learned, tmp_path, mistake, fields, said):
    folder, _ = learned
    pictures = {"small": np.eye(20), "flat": np.full(EDGES, 7), "empty": np.zeros(EDGES)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    tifffile.imwrite(folder / "volume.tif", image_of(0))
    with mistake(said):
        planned(learned, tmp_path, **fields)

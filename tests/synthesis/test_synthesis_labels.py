"""Labels laid together, bent and drawn, on masks small enough to check by eye."""

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from metgan_dist.errors import UserError
from metgan_dist.synthesis.drawings import read_drawings
from metgan_dist.synthesis.labels import Bend, bend, displacement, lay, merge


def random(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def square(shape=(64, 64), at=(20, 24), edge=12, value=1):
    label = np.zeros(shape, np.uint8)
    label[at[0] : at[0] + edge, at[1] : at[1] + edge] = value
    return label


def test_merged_labels_hold_all_lesions_the_last_on_top():
    one, two = square(value=1), square(at=(26, 30), value=2)
    merged = merge([one, two])
    assert (merged[two == 2] == 2).all()
    assert (merged[(one == 1) & (two == 0)] == 1).all()
    assert ((merged > 0) == ((one > 0) | (two > 0))).all()
    assert one.max() == 1  # the source is not written to


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (180.0, 2), (-90.0, 3)])
def test_a_quarter_turn_about_the_lesions_middle(angle, turns):
    label = square(edge=13, at=(20, 20))
    label[20:26, 20:33] = 2
    turned = bend(label, Bend(angle, 1.0, 0.0, 16.0), random())
    expected = np.zeros_like(label)
    expected[20:33, 20:33] = np.rot90(label[20:33, 20:33], turns)
    np.testing.assert_array_equal(turned, expected)


def test_scale_changes_the_area_by_its_square():
    label = square(edge=17)
    for scale in (0.5, 2.0):
        area = np.count_nonzero(bend(label, Bend(0.0, scale, 0.0, 16.0), random()))
        assert area == pytest.approx(17**2 * scale**2, rel=0.15)


def test_bending_keeps_classes_apart_and_follows_the_seed():
    label = square(value=5)
    label[23:29, 27:33] = 7
    how = Bend(33.0, 1.1, 3.0, 8.0)
    bent = bend(label, how, random(1))
    assert set(np.unique(bent)) == {0, 5, 7}
    np.testing.assert_array_equal(bent, bend(label, how, random(1)))
    assert (bent != bend(label, how, random(2))).any()


def test_bending_a_volume():
    label = np.zeros((16, 32, 32), np.uint8)
    label[6:10, 12:20, 12:20] = 1
    bent = bend(label, Bend(45.0, 1.0, 1.0, 8.0), random())
    assert bent.shape == label.shape
    assert np.count_nonzero(bent) == pytest.approx(4 * 64, rel=0.3)


def test_displacement_has_the_size_asked_for_and_is_smooth():
    field = displacement((64, 48), 3.0, 16.0, random())
    assert field.shape == (2, 64, 48)
    assert np.sqrt((field**2).mean()) == pytest.approx(3.0)
    assert np.abs(np.diff(field, axis=1)).max() < 1.5


def test_angle_and_scale_keep_to_the_recipe():
    drawn = [Bend.draw(random(seed), 20.0, (0.5, 2.0), 0.0, 16.0) for seed in range(200)]
    assert max(abs(how.angle) for how in drawn) <= 20
    assert all(0.5 <= how.scale <= 2 for how in drawn)
    assert sum(how.scale < 1 for how in drawn) == pytest.approx(100, abs=30)


def test_a_drawing_is_laid_whole_at_places_that_vary():
    places = set()
    for seed in range(8):
        label, offset = lay(np.ones((3, 5), np.uint8), (16, 16), random(seed))
        assert label.sum() == 15
        assert label[offset[0] : offset[0] + 3, offset[1] : offset[1] + 5].all()
        places.add(tuple(offset))
    assert len(places) > 4


def test_drawings_of_all_formats(tmp_path):
    mask = square((40, 48), at=(5, 6), edge=9)
    Image.fromarray(mask * 255).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", mask)
    stack = np.stack([mask * 0, mask, mask])
    tifffile.imwrite(tmp_path / "c.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    nibabel.save(nibabel.Nifti1Image(mask.T, np.eye(4)), tmp_path / "d.nii.gz")
    (tmp_path / "notes.txt").write_text("not a label")
    drawings = read_drawings(str(tmp_path), (64, 64), 2)
    assert [(drawing.file, drawing.plane) for drawing in drawings] == [
        ("a.png", None),
        ("b.tif", None),
        ("c.tif", 1),
        ("c.tif", 2),
        ("d.nii.gz", None),
    ]
    # Of another size than the tiles: cut to the lesions.
    assert all(drawing.pixels.shape == (9, 9) and drawing.pixels.all() for drawing in drawings)
    assert len(drawings[0].sha256) == 64
    assert drawings[2].source == {"file": "c.tif", "sha256": drawings[2].sha256, "plane": 1}
    (same,) = read_drawings(str(tmp_path / "a.png"), (40, 48), 2)
    np.testing.assert_array_equal(same.pixels, mask)


@pytest.mark.parametrize(
    ("pixels", "classes", "culprit"),
    [
        (np.full((8, 8), 3, np.uint8), 3, "label value 3"),
        (np.full((8, 8), 255, np.uint8), 3, "label value 255"),
        (np.full((8, 8), 0.5, np.float32), 2, "label value 0.5"),
        (np.full((8, 8), np.nan, np.float32), 2, "label value nan"),
        (np.ones((80, 8), np.uint8), 2, "80 x 8"),
        (np.zeros((8, 8), np.uint8), 2, "none of 1 file"),
    ],
)
def test_drawings_that_cannot_be_imposed(tmp_path, pixels, classes, culprit):
    tifffile.imwrite(tmp_path / "wrong.tif", pixels)
    with pytest.raises(UserError, match=culprit) as error:
        read_drawings(str(tmp_path / "wrong.tif"), (64, 64), classes)
    assert "wrong.tif" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_or_absent_bank(tmp_path):
    with pytest.raises(UserError, match="no label image"):
        read_drawings(str(tmp_path), (64, 64), 2)
    with pytest.raises(UserError, match="not found"):
        read_drawings(str(tmp_path / "absent"), (64, 64), 2)

"""What describe_data.py says of a good data set, and of one broken copy of it for each kind of damage."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from unmapped_brains import write_heads

from metgan_dist.inspection.describe import describe
from metgan_dist.recipe import Data
from metgan_dist.runs.job import run_job
from metgan_dist.volumes.dataset import resolve_data

SHAPE = (16, 12, 6)
AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def scan(path, array, affine=AFFINE):
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def change(path, at=None, to=None, affine=None, dtype=None):
    """Write a scan again with other voxels `at` a place, another affine or another type."""
    image = nibabel.load(path)
    array = np.array(image.dataobj).astype(dtype or image.get_data_dtype())
    if to is not None:
        array[at] = to
    scan(path, array, image.affine if affine is None else affine)


def header(path, at, content):
    """Other bytes in the header of a .nii.gz."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[at : at + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)))


def describe_as(folder, change_tree):
    tree = yaml.safe_load((folder / "dataset.yaml").read_text())
    change_tree(tree)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Three volumes with two channels and a label of two classes, of a patient each; nothing is wrong with them."""
    folder = tmp_path_factory.mktemp("sound")
    volumes = []
    for number in range(3):
        name, random = f"p{number}", np.random.default_rng(number)
        for channel in ("t1", "t2"):
            scan(folder / f"{name}_{channel}.nii.gz", random.normal(500, 100, SHAPE).astype(np.float32))
        label = np.zeros(SHAPE, np.int16)
        label[2:6, 3:7, 1:4], label[3:5, 4:6, 2] = 10, 20
        scan(folder / f"{name}_label.nii.gz", label)
        path = {channel: f"{name}_{channel}.nii.gz" for channel in ("t1", "t2")}
        volumes.append({"id": name, "patient": name, "path": path, "label": f"{name}_label.nii.gz"})
    tree = {"anatomy": "t1", "tumour": "t2", "labels": {10: "liver", 20: "tumour"}, "volumes": volumes}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


@pytest.fixture
def broken(sound, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(sound, tmp_path / "set"))


@pytest.fixture
def described(capsys, tmp_path):
    """described(path) -> exit code, the lines of what was said, the line of the error."""

    def run(path, *flags):
        arguments = ["--data.path", str(path), "--storage.path", str(tmp_path / "results"), *flags]
        code = run_job("describe_data.py", "", describe, arguments)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.strip()

    return run


def test_a_sound_set_is_a_table_without_findings(sound, described, tmp_path):
    code, lines, err = described(sound)
    assert (code, err) == (0, "")
    assert lines[0] == f"{sound}/dataset.yaml: a description"
    assert "3 volume(s): 0 error(s), 0 warning(s)" in lines
    (row,) = (line for line in lines if line.startswith("p1 "))
    assert lines[lines.index("class       voxels  in volumes") + 2 :][:2] == [
        "liver       132     3",
        "tumour      12      3",
    ]
    for part in ("6 x 12 x 16", "4 x 1 x 1 millimeter", "RAS", "float32", "t1 ", "t2 ", "liver 44, tumour 4"):
        assert part in row, row
    kept = tmp_path / "results" / f"describe-{sound.name}"
    assert lines[-1] == f"result: {kept}/report.txt"
    assert row in (kept / "report.txt").read_text().splitlines()
    assert not (kept / "worst.png").exists()
    shutil.copytree(sound, tmp_path / "again")
    shutil.copy(kept / "dataset.yaml", tmp_path / "again/dataset.yaml")
    understood, own = (resolve_data(Data(path=str(folder))) for folder in (tmp_path / "again", sound))
    assert understood.model_copy(update={"path": own.path}) == own


def test_nnunets_plan_for_the_labelled_volumes_is_told_as_flags(described, tmp_path):
    folder = tmp_path / "thick"
    folder.mkdir()
    random, affine = np.random.default_rng(0), np.diag([1.0, 1.0, 3.5, 1.0])
    volumes = []
    for number in range(3):
        scan(folder / f"{number}.nii.gz", random.normal(500, 100, (64, 64, 12)).astype(np.float32), affine)
        label = np.zeros((64, 64, 12), np.uint8)
        label[number : number + 9, 9:20, 3:6] = 1
        scan(folder / f"{number}_label.nii.gz", label, affine)
        volumes.append({"id": str(number), "path": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    tree = {"anatomy": "", "tumour": "c0", "volumes": volumes}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree))
    code, lines, _ = described(folder)
    assert code == 0
    assert [line for line in lines if line.startswith("nnU-Net's plan")] == [
        "nnU-Net's plan, crops: --tiles.kind crop --tiles.spacing 3.5,1,1 --tiles.size 12,64,64 --segmentation.network "
        "dynunet --segmentation.batch_size 2; 5 levels",
        "nnU-Net's plan, slices: --tiles.kind slice voxels of 1,1 in the plane --tiles.size 64,64 "
        "--segmentation.network dynunet --segmentation.batch_size 2; 5 levels",
    ]


def test_maps_of_tissues_that_are_made_are_told_and_shown(described, tmp_path):
    folder = write_heads(tmp_path / "heads")
    code, lines, err = described(folder)
    assert (code, err) == (0, "")
    assert "tissue_map: kmeans" in lines
    (told,) = (line for line in lines if line.startswith("warning") and "data.tissue_map" in line)
    assert told.startswith("warning: s: its map of tissues and those of 1 more were drawn by nobody")
    assert any(line.startswith("white matter ") for line in lines)
    assert (tmp_path / "results" / "describe-heads" / "worst.png").exists()


def truncate(folder):
    path = folder / "p1_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])


def one_bit(folder):
    path = folder / "p1_t2.nii.gz"
    content = bytearray(path.read_bytes())
    content[-7] ^= 4  # of the checksum
    path.write_bytes(content)


def planes(folder, channel):
    """The channel of p1 as a TIFF, which says nothing of voxels."""
    array = np.asarray(nibabel.load(folder / f"p1_{channel}.nii.gz").dataobj).T
    metadata = {"axes": "ZYX"}
    tifffile.imwrite(folder / f"p1_{channel}.tif", array, photometric="minisblack", metadata=metadata)
    describe_as(folder, lambda tree: tree["volumes"][1]["path"].update({channel: f"p1_{channel}.tif"}))


def fixed_apart(tree):
    for entry, split in zip(tree["volumes"], ("train", "test", "auto"), strict=True):
        entry |= {"patient": "same", "split": split}


def listed_twice(tree):
    tree["volumes"].append(tree["volumes"][0] | {"id": "again"})


def own(name):
    """A change of one field of volume p1."""
    field, value = name

    def change_tree(tree):
        entry = tree["volumes"][1]
        if value is None:
            del entry[field]
        else:
            entry[field] = value

    return lambda folder: describe_as(folder, change_tree)


def of_set(**fields):
    return lambda folder: describe_as(folder, lambda tree: tree.update(fields))


CORNER = (slice(0, 2), 0, 0)
# Kind of damage -> how it is done, whether it is an error, parts of the one line that tells of it.
DAMAGE = {
    "truncated": (truncate, "error", ["p1", "p1_t2.nii.gz", "copy it again"]),
    "a flipped bit": (one_bit, "error", ["p1", "p1_t2.nii.gz", "CRC", "copy it again"]),
    "empty file": (lambda f: (f / "p1_t1.nii.gz").write_bytes(b""), "error", ["p1_t1.nii.gz", "the file is empty"]),
    "no NIfTI": (lambda f: (f / "p1_t1.nii.gz").write_text("a letter"), "error", ["p1_t1.nii.gz", "no readable NIfTI"]),
    "image missing": (lambda f: (f / "p1_t1.nii.gz").unlink(), "error", ["p1", "p1_t1.nii.gz", "not found"]),
    "label missing": (lambda f: (f / "p1_label.nii.gz").unlink(), "error", ["p1", "p1_label.nii.gz", "not found"]),
    "no label": (own(("label", None)), "error", ["p1", "has no label", "'p0' has one"]),
    "label of another shape": (
        lambda f: scan(f / "p1_label.nii.gz", np.zeros((16, 12, 5), np.int16)),
        "error",
        ["p1_label.nii.gz", "(5, 12, 16)", "(6, 12, 16)"],
    ),
    "label that lies otherwise": (
        lambda f: change(f / "p1_label.nii.gz", affine=np.diag([-1.0, 1, 4, 1])),
        "error",
        ["p1_label.nii.gz", "voxels away", "`orientation`", "RAS and LAS"],
    ),
    "label on a shifted grid": (
        lambda f: change(f / "p1_label.nii.gz", affine=AFFINE + np.eye(4, k=3) * 3),
        "error",
        ["p1_label.nii.gz", "3.0 voxels away", "resample one"],
    ),
    "affine of NaN": (
        lambda f: header(f / "p1_t1.nii.gz", 280, np.full(4, np.nan, "<f4").tobytes()),
        "error",
        ["p1_t1.nii.gz", "affine", "correct the header"],
    ),
    "NaN": (lambda f: change(f / "p1_t1.nii.gz", CORNER, np.nan), "error", ["'t1'", "2 NaN or infinite"]),
    "infinity": (lambda f: change(f / "p1_t2.nii.gz", CORNER, -np.inf), "error", ["'t2'", "2 NaN or infinite"]),
    "constant": (lambda f: change(f / "p1_t2.nii.gz", ..., 7), "error", ["p1", "'t2'", "constant, 7 everywhere"]),
    "clipped": (
        lambda f: change(f / "p1_t1.nii.gz", (slice(0, 4), 0), 4095),
        "warning",
        ["p1", "'t1'", "2.1%", "largest value, 4095", "clipped"],
    ),
    "another unit of intensities": (
        lambda f: change(f / "p1_t2.nii.gz", ..., np.random.default_rng(9).random(SHAPE, np.float32)),
        "warning",
        ["p1", "'t2'", "values span 0.99", "another unit"],
    ),
    "a value that is not mapped": (
        lambda f: change(f / "p1_label.nii.gz", CORNER, 421),
        "error",
        ["p1_label.nii.gz", "421 (2 voxels)", "plane 0", "`labels`", "unmapped: background"],
    ),
    "a value too many": (
        lambda f: of_set(labels=None, classes=21)(f) or change(f / "p1_label.nii.gz", CORNER, 21),
        "error",
        ["p1_label.nii.gz", "21 (2 voxels)", "data.classes is 21", "0 to 20"],
    ),
    "an interpolated label": (
        lambda f: change(f / "p1_label.nii.gz", CORNER, 9.5, dtype=np.float32),
        "error",
        ["p1_label.nii.gz", "2 label voxels", "9.5", "interpolated", "nearest"],
    ),
    "an image as label": (
        lambda f: shutil.copy(f / "p1_t1.nii.gz", f / "p1_label.nii.gz"),
        "error",
        ["p1_label.nii.gz", "no integers"],
    ),
    "an empty label": (lambda f: change(f / "p1_label.nii.gz", ..., 0), "warning", ["p1", "empty label"]),
    "a class without a voxel": (
        of_set(labels={10: "liver", 20: "tumour", 30: "vessel"}),
        "warning",
        ["no label has a voxel of 'vessel'"],
    ),
    "the same image twice": (
        lambda f: shutil.copy(f / "p0_t1.nii.gz", f / "p1_t1.nii.gz"),
        "error",
        ["p1", "'t1'", "same voxels", "'p0'"],
    ),
    "the same file twice": (
        lambda f: describe_as(f, listed_twice),
        "error",
        ["p0_t1.nii.gz", "'p0' and 'again'", "list it once"],
    ),
    "a patient on two sides": (
        lambda f: describe_as(f, fixed_apart),
        "error",
        ["patient same", "test and to train"],
    ),
    "an id twice": (own(("id", "p0")), "error", ["two volumes have the id 'p0'"]),
    "no voxel size": (
        lambda f: [planes(f, name) for name in ("t1", "t2")],
        "warning",
        ["p1", "voxel size is not known", "`spacing`"],
    ),
    "a voxel size of 0": (
        lambda f: header(f / "p1_t1.nii.gz", 80, np.zeros(3, "<f4").tobytes()),
        "warning",
        ["p1_t1.nii.gz", "voxel size (x, y, z) 0, 0, 0", "is taken", "`spacing`"],
    ),
    "an affine of another voxel size": (
        lambda f: header(f / "p1_t1.nii.gz", 80, np.array([1.4, 1.4, 10], "<f4").tobytes()),
        "warning",
        ["p1_t1.nii.gz", "voxel size (x, y, z) 1.4, 1.4, 10", "1, 1, 4 in its affine", "`spacing`"],
    ),
    "a negative voxel size": (
        lambda f: header(f / "p1_t1.nii.gz", 80, np.array([1, -1, 4], "<f4").tobytes()),
        "warning",
        ["p1_t1.nii.gz", "voxel size (x, y, z) 1, -1, 4", "state `spacing`"],
    ),
    "no orientation": (
        # qform_code and sform_code
        lambda f: [header(f / f"p1_{name}.nii.gz", 252, bytes(4)) for name in ("t1", "t2", "label")],
        "warning",
        ["p1_t1.nii.gz", "towards which sides", "LAS"],
    ),
    "a voxel size unlike the others": (own(("spacing", [20, 5, 5])), "warning", ["p1", "20 x 5 x 5", "4 x 1 x 1"]),
    "voxels that are no cubes": (own(("spacing", [11, 1, 0.5])), "warning", ["p1", "more than 10 times"]),
    "several units": (own(("unit", "micrometer")), "warning", ["several units", "'p1' in micrometer", "`unit`"]),
    "several orientations": (
        lambda f: [change(f / f"p1_{n}.nii.gz", affine=np.diag([-1.0, -1, 4, 1])) for n in ("t1", "t2", "label")],
        "warning",
        ["2 orientations", "2 as RAS (first 'p0')", "1 as LPS (first 'p1')", "`orientation: RAS`"],
    ),
    "a channel that is not there": (of_set(tumour="t3"), "error", ["p0", "no channel 't3'", "t1, t2"]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_is_a_line(broken, described, kind):
    work, severity, parts = DAMAGE[kind]
    work(broken)
    code, lines, err = described(broken)
    told = [line for line in lines if line.startswith(f"{severity}: ")]
    assert any(all(part in line for part in parts) for line in told), "\n".join(lines)
    assert code == (2 if severity == "error" else 0)
    if severity == "error":
        assert err.startswith(f"error: {broken}: ")
        assert "error(s) in the data set" in err
        assert "\n" not in err
    else:
        assert not [line for line in lines if line.startswith("error: ")]


def test_there_are_twenty_kinds():
    assert len(DAMAGE) >= 20


def test_all_is_told_at_once_and_the_worst_is_shown(broken, described, tmp_path):
    truncate(broken)
    (broken / "p0_t1.nii.gz").unlink()
    change(broken / "p1_label.nii.gz", CORNER, 421)
    change(broken / "p2_label.nii.gz", ..., 0)
    _, lines, _ = described(broken)
    told = [line for line in lines if line.startswith(("error: ", "warning: "))]
    assert [line.split(":")[1].strip() for line in told] == ["p0", "p1", "p1", "p2"]
    assert "3 volume(s): 3 error(s), 1 warning(s)" in lines
    picture = tmp_path / "results/describe-set/worst.png"
    assert f"pictures: {picture}" in lines
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.size[0] > 300


def test_what_unmapped_makes_background_is_counted_and_no_error(broken, described):
    change(broken / "p1_label.nii.gz", CORNER, 421)
    code, lines, _ = described(broken, "--data.unmapped", "background")
    (line,) = (line for line in lines if line.startswith("warning: p1"))
    assert "421 (2 voxels)" in line
    assert "becomes background" in line
    assert code == 0


def test_orientation_brings_volumes_together_and_the_table_says_how_they_lay(broken, described):
    for name in ("t1", "t2"):
        change(broken / f"p1_{name}.nii.gz", affine=np.diag([-1.0, -1, 4, 1]))
    assert described(broken)[0] == 2  # the label lies as before
    change(broken / "p1_label.nii.gz", affine=np.diag([-1.0, -1, 4, 1]))
    code, lines, _ = described(broken, "--data.orientation", "RAS")
    assert code == 0
    assert "3 volume(s): 0 error(s), 0 warning(s)" in lines
    assert any("LPS -> RAS" in line for line in lines if line.startswith("p1 "))


def images(folder, planes):
    for channel in ("auto", "signal"):
        (folder / channel).mkdir(parents=True)
        for number, plane in enumerate(planes):
            tifffile.imwrite(folder / channel / f"{number}.tif", (plane + (channel == "signal")).astype(np.uint8))


def test_separate_images_are_told_by_their_names(tmp_path, described):
    random = np.random.default_rng(0)
    planes = [random.integers(1, 200, (20, 20)) for _ in range(5)]
    planes[3] = planes[1]
    planes[4] = np.full((20, 20), 9)
    images(tmp_path / "set/s", planes)
    text = "anatomy: auto\ntumour: signal\nvolumes: [{id: s, path: {auto: s/auto, signal: s/signal}, axes: nyx}]\n"
    (tmp_path / "set/dataset.yaml").write_text(text)
    code, lines, _ = described(tmp_path / "set")
    assert code == 2
    assert any("image '3.tif' has the same voxels as channel 'auto' of image '1.tif'" in line for line in lines)
    assert any("image '4.tif': constant, 9 everywhere" in line for line in lines if line.startswith("warning: s"))


def test_one_volume_is_described_by_what_it_has(tmp_path, described):
    array = np.random.default_rng(0).integers(0, 99, (12, 10, 8, 2)).astype(np.int16)
    scan(tmp_path / "v.nii.gz", array)
    code, lines, _ = described(tmp_path / "v.nii.gz")
    assert code == 0
    assert lines[0] == f"{tmp_path}/v.nii.gz: one volume"
    understood = yaml.safe_load("\n".join(lines[1 : lines.index("")]))
    assert (understood["anatomy"], understood["tumour"]) == ("c0", "c1")
    assert understood["volumes"] == [{"id": "v", "path": "v.nii.gz"}]


def test_a_layout_is_named(tmp_path, described):
    folder = tmp_path / "set/cropped"
    folder.mkdir(parents=True)
    for number in range(2):
        random = np.random.default_rng(number)
        scan(folder / f"pat{number}_cropped.nii.gz", random.normal(0, 1, SHAPE).astype(np.float32))
        scan(folder / f"pat{number}_cropped_seg.nii.gz", random.integers(0, 9, SHAPE).astype(np.uint8))
    code, lines, _ = described(tmp_path / "set")
    assert code == 0
    assert lines[0] == f"{tmp_path}/set: read as HVSMR-2.0"
    assert "  1: left ventricle" in lines
    assert "orientation: RAS" in lines


def test_two_domains_are_described_as_such_and_a_missing_volume_is_its_own_mistake(tmp_path, described):
    folder = tmp_path / "set"
    folder.mkdir()
    for number, domain in enumerate(("ct", "ct", "mr", "mr")):
        random = np.random.default_rng(number)
        name = folder / f"{domain}_train_100{number}"
        scan(f"{name}_image.nii.gz", random.normal(0, 1, SHAPE).astype(np.float32))
        scan(f"{name}_label.nii.gz", random.choice([0, 500, 205], SHAPE).astype(np.int16))
    code, lines, err = described(folder)
    assert (code, err) == (0, "")
    assert lines[0] == f"{folder}: read as MM-WHS"
    assert [line.split()[:2] for line in lines if line.startswith(("ct_", "mr_"))] == [
        ["ct_train_1000", "ct"],
        ["ct_train_1001", "ct"],
        ["mr_train_1002", "mr"],
        ["mr_train_1003", "mr"],
    ]
    shutil.copytree(folder, tmp_path / "again")
    shutil.copy(tmp_path / "results/describe-set/dataset.yaml", tmp_path / "again/dataset.yaml")
    understood, own = (resolve_data(Data(path=str(one))) for one in (tmp_path / "again", folder))
    assert understood.model_copy(update={"path": own.path}) == own
    (tmp_path / "again/mr_train_1003_image.nii.gz").unlink()
    code, lines, _ = described(tmp_path / "again")
    assert code == 2
    assert [line for line in lines if line.startswith("error: ")] == [
        f"error: mr_train_1003: {tmp_path}/again/mr_train_1003_image.nii.gz: not found; volume 'mr_train_1003' names "
        f"it, paths are relative to {tmp_path}/again"
    ]


@pytest.mark.parametrize(
    ("path", "parts"),
    [("", ["data.path", "empty"]), ("nowhere", ["nowhere", "not found"]), ("tiles", ["tiles", "cut from volumes"])],
)
def test_what_is_no_data_set_is_refused(tmp_path, described, path, parts):
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles/manifest.json").write_text("{}")
    code, _, err = described(tmp_path / path) if path else described("")
    assert code == 2
    assert all(part in err for part in parts), err
    assert not (tmp_path / "results").exists()

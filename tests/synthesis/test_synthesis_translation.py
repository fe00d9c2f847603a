"""Whole volumes in the other domain: what an identity leaves as it was, on which grid, with which label, of whom."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from networkless import Networkless
from PIL import Image
from two_domains import LOWEST, SPAN, cut_here, recipe_of, write_two_domains
from untracked import untracked
from untrained import write_untrained

from metgan_dist.inspection.describe import describe
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.synthesis import planned_synthesis
from metgan_dist.synthesis.translating import Translator, Windowed
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import whole

SHAPE = (8, 20, 28)
# x runs to the left, y to the back, and both are tilted; voxels of 2 x 1.5 x 4.
TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-2, -1.5, 4])
AFFINE[:3, 3] = 9, 8, 7
LABELS = {500: "left ventricle", 205: "myocardium"}


class Identity:
    """Gives back what it is given, and keeps it."""

    def __init__(self):
        self.seen = []

    def translate(self, image, label, /):
        self.seen.append((image, label))
        return image


def write_data(folder, shape=SHAPE, affine=AFFINE, labels=LABELS, shared=1, **description):
    """Five volumes a domain, tilted, with label values of their own; the first `shared` of each are of one patient."""
    write_two_domains(folder, {"ct": 5, "mr": 5}, shape=shape, shared=shared, **description, labels=labels)
    for path in folder.glob("*.nii.gz"):
        voxels = np.asarray(nibabel.load(path).dataobj)
        if "label" in path.name:
            values = np.array([0, *labels], np.int16)
            voxels = values[voxels + (voxels & (np.indices(voxels.shape)[0] % 2 == 0))]
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return folder


def cut(folder, **tiles):
    """Its tiles, held out by volume, ranges being those of the lowest and highest voxel."""
    fields = {"kind": "crop", "size": SHAPE, "normalise": "minmax", "split_by": "volume", **tiles}
    return cut_here(recipe_of(folder / "data", tiles=fields), folder / "set")


def write_run(folder, tiles, method="cyclegan", **fields):
    """The run folder of an untrained generator of these tiles."""
    data = {name: value for name, value in tiles.manifest["data"].items() if name != "volumes"}
    tree = {"data": {**data, "domains": {}, "source": None, "target": None}, "tiles": tiles.manifest["tiles"]}
    tree["method"] = {"name": method, "width": 1 / 16, "backbone": "resnet-9", **fields}
    run = folder / "run"
    checkpoint = write_untrained(run / "train" / method / "images-000000000", Recipe.model_validate(tree))
    (run / "run.json").write_text(json.dumps({"job": "train_metgan", "mlflow_run_id": "1" * 32, "recipe": {}}))
    made = {"status": "finished", "artefacts": {"tiles": tiles.uri, "best_checkpoint": checkpoint}}
    (run / "result.json").write_text(json.dumps(made))
    return str(run)


def asked(folder, run, **synthesis):
    """The command that translates with a run's generator; the recipe's sections beside `synthesis` are not named."""
    given = {"model": run, **synthesis}
    tree = {"synthesis": given, "storage": {"path": str(folder / "out")}, "tracking": {"run": "made"}}
    recipe = Recipe.model_validate({**tree, "data": {"path": str(folder / "data")}})
    return Command(recipe, "quickstart", False, False, given={"synthesis": given})


def plan_of(folder, tiles, method="cyclegan", **synthesis):
    return planned_synthesis(asked(folder, write_run(folder, tiles, method), **synthesis))


def made_here(plan, folder, generator, **changes):
    """The data set that the plan's volumes become by a generator in this process."""
    job = replace(plan.job, folder=str(folder), **changes)
    worker = Translator(job, generator)
    plan.describe(job, [worker.translate(original) for original in plan.originals])
    return volume_refs(resolve_data(Recipe.model_validate({"data": {"path": str(folder)}}).data))


def same_range(plan):
    """The target's range in the place of which the source's stands: an identity then changes nothing."""
    return {"ranges": plan.originals[0].ranges, "dtype": "int16"}


@pytest.fixture
def tiles(tmp_path):
    write_data(tmp_path / "data", orientation="RAS")
    return cut(tmp_path)


def test_an_identity_gives_back_each_volume_with_its_affine_and_label_values(tiles, tmp_path):
    plan = plan_of(tmp_path, tiles)
    assert [original.ref.id for original in plan.originals] == training_volumes(tiles, "ct")
    for original in plan.originals:
        ends = {"ranges": original.ranges, "dtype": "int16"}
        made_here(replace(plan, originals=(original,)), tmp_path / "made", Identity(), **ends)
        for kind in ("", "-label"):
            source = nibabel.load(tmp_path / "data" / f"{original.ref.id}{kind}.nii.gz")
            made = nibabel.load(tmp_path / "made" / f"{original.name}{kind}.nii.gz")
            np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(source.dataobj))
            np.testing.assert_allclose(made.affine, source.affine, atol=1e-5)
            np.testing.assert_allclose(made.header.get_zooms(), source.header.get_zooms(), rtol=1e-6)
        assert set(np.unique(np.asarray(made.dataobj))) == {0, 500, 205}


def training_volumes(tiles, domain):
    own = tiles.index[(tiles.index["domain"] == domain) & (tiles.index["split"] == "train")]
    return list(dict.fromkeys(own["volume"]))


def test_intensities_are_those_of_the_domain_that_is_imitated(tiles, tmp_path):
    plan = plan_of(tmp_path, tiles)
    ((low, high),) = plan.job.ranges
    assert (low, high) == pytest.approx((LOWEST["mr"], LOWEST["mr"] + SPAN["mr"]), abs=3)
    ref = made_here(plan, tmp_path / "made", Identity())[0]
    source = plan.originals[0].ref.open()
    box = tuple((0, edge) for edge in SHAPE)
    (ends,) = plan.originals[0].ranges
    shares = (source.read("anatomy", box) - ends[0]) / (ends[1] - ends[0])
    np.testing.assert_allclose(ref.open().read("tumour", box), low + shares * (high - low), atol=0.51)


def test_the_data_set_says_of_whom_by_what_and_how_its_volumes_were_made(tiles, tmp_path):
    plan = plan_of(tmp_path, tiles)
    refs = made_here(plan, tmp_path / "made", Identity())
    originals = [original.ref for original in plan.originals]
    assert [ref.id for ref in refs] == [f"{ref.id}-as-mr" for ref in originals]
    assert [(ref.domain, ref.patient, ref.split) for ref in refs] == [("mr", ref.patient, "train") for ref in originals]
    assert all(ref.open().has("tumour") and not ref.open().has("anatomy") for ref in refs)
    for made, ref in zip(refs, originals, strict=True):
        box = tuple((0, edge) for edge in SHAPE)
        np.testing.assert_array_equal(made.open().read("label", box), ref.open().read("label", box))
    said = yaml.safe_load((tmp_path / "made/dataset.yaml").read_text())["synthesis"]
    assert said["model"]["sha256"] == plan.model.sha256
    assert said["tiles"] == {"uri": tiles.uri, "digest": tiles.digest}
    assert (said["from"], said["settings"]["direction"]) == ("ct", "forward")
    assert [one["volume"] for one in said["volumes"]] == [ref.id for ref in originals]


def test_a_labelled_folder_is_described_without_a_finding(tiles, tmp_path):
    plan = plan_of(tmp_path, tiles)
    made_here(plan, tmp_path / "made", Identity())
    recipe = Recipe.model_validate({"data": {"path": str(tmp_path / "made")}, "storage": {"path": str(tmp_path)}})
    said = Path(describe(Command(recipe, "mine", False, False))).read_text()
    assert f"{len(plan.originals)} volume(s): 0 error(s), 0 warning(s)" in said
    assert "synthesis:" in said


def test_the_way_back_imitates_the_source_and_reads_the_target(tiles, tmp_path):
    plan, generator = plan_of(tmp_path, tiles, direction="back"), Identity()
    assert [original.ref.id for original in plan.originals] == training_volumes(tiles, "mr")
    assert plan.job.ranges[0] == pytest.approx((LOWEST["ct"], LOWEST["ct"] + SPAN["ct"]), abs=10)
    refs = made_here(plan, tmp_path / "made", generator)
    assert [ref.domain for ref in refs] == ["ct"] * len(refs)
    box = tuple((0, edge) for edge in SHAPE)
    source, made = (ref.open().read("tumour", box) for ref in (plan.originals[0].ref, refs[0]))
    assert np.corrcoef(source.ravel(), made.ravel())[0, 1] > 0.999


def test_what_is_resampled_is_written_on_the_generators_voxels_where_they_lie(tmp_path):
    write_data(tmp_path / "data")
    tiles = cut(tmp_path, size=(8, 10, 14), spacing=(4, 3, 4))
    plan = plan_of(tmp_path, tiles)
    made_here(plan, tmp_path / "made", Identity(), **same_range(plan))
    name = plan.originals[0]
    source, made, label = (
        nibabel.load(path)
        for path in (
            tmp_path / "data" / f"{name.ref.id}.nii.gz",
            tmp_path / "made" / f"{name.name}.nii.gz",
            tmp_path / "made" / f"{name.name}-label.nii.gz",
        )
    )
    assert made.shape == label.shape == (14, 10, 8)
    np.testing.assert_allclose(made.header.get_zooms(), (4, 3, 4), rtol=1e-6)
    # The corners of both grids are the same points of the patient.
    ends = [[-0.5, -0.5, -0.5, 1], [27.5, 19.5, 7.5, 1]], [[-0.5, -0.5, -0.5, 1], [13.5, 9.5, 7.5, 1]]
    for whole_grid, coarse in zip(*ends, strict=True):
        np.testing.assert_allclose(made.affine @ coarse, source.affine @ whole_grid, atol=1e-4)
    np.testing.assert_allclose(label.affine, made.affine)
    # A voxel of 2 x 2 of the source lies where its mean position is, and its label is one of theirs.
    assert {0, 500} <= set(np.unique(np.asarray(label.dataobj))) <= {0, 500, 205}


def test_of_a_heart_the_box_that_tiles_are_cut_from_is_translated_where_it_lies(tmp_path):
    domains = {"ct": {"modality": "cardiac-ct"}, "mr": {"modality": "cardiac-mr"}}
    write_data(tmp_path / "data", domains=domains)
    tiles = cut(tmp_path, size=(10, 12, 12), spacing=(4, 1.5, 2), modality="cardiac-ct")
    generator = Identity()
    plan = plan_of(tmp_path, tiles, region="heart")
    made_here(plan, tmp_path / "made", generator, ranges=plan.originals[0].ranges, dtype="float32")
    (row,) = np.flatnonzero(tiles.index["volume"] == plan.originals[0].ref.id)
    np.testing.assert_allclose(generator.seen[0][0], tiles.load(int(row))["anatomy"], atol=1e-5)
    np.testing.assert_array_equal(generator.seen[0][1], tiles.load(int(row))["label"])
    source, made = (
        nibabel.load(path / name)
        for path, name in (
            (tmp_path / "data", f"{plan.originals[0].ref.id}.nii.gz"),
            (tmp_path / "made", f"{plan.originals[0].name}.nii.gz"),
        )
    )
    # The voxels are the source's own: each lies where the source has its value.
    at = np.array([5, 6, 3, 1])
    x, y, z = np.rint(np.linalg.solve(source.affine, made.affine @ at))[:3].astype(int)
    expected = np.asarray(source.dataobj)[x, y, z]
    assert np.asarray(made.dataobj)[5, 6, 3] == pytest.approx(expected, abs=0.1)


class Pointwise(Networkless):
    """An identity whose window sizes are kept."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def translate(self, batch):
        self.seen.add(tuple(batch["anatomy"].shape[2:]))
        assert batch["anatomy"].shape[2:] == batch["label"].shape[1:]
        return batch["anatomy"]

    def pictures(self, batch):
        return {}


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"size": (4, 8, 8), "stride": (4, 8, 8)}, (4, 8, 8)),
        ({"kind": "slice", "size": 16, "stride": 16, "gap": 0}, (16, 16)),
        ({"kind": "slice", "size": 10, "resize": 20, "stride": 10, "gap": 0}, (20, 20)),
    ],
)
def test_windows_leave_no_seam(tmp_path, fields, window):
    write_data(tmp_path / "data")
    tiles = cut(tmp_path, **fields)
    plan = plan_of(tmp_path, tiles, overlap=0.25)
    generator, method = Windowed(plan.job), Pointwise()
    generator._replica.method = method
    made_here(plan, tmp_path / "made", generator, **same_range(plan))
    source = np.asarray(nibabel.load(tmp_path / "data" / f"{plan.originals[0].ref.id}.nii.gz").dataobj)
    made = np.asarray(nibabel.load(tmp_path / "made" / f"{plan.originals[0].name}.nii.gz").dataobj)
    assert method.seen == {window}
    if "resize" not in fields:
        assert np.abs(made - source).max() <= 1
    else:  # enlarged and reduced again
        assert np.corrcoef(made.ravel(), source.ravel())[0, 1] > 0.8


def test_an_ome_zarr_holds_the_volume_its_label_and_voxel_size(tiles, tmp_path):
    plan = plan_of(tmp_path, tiles, format="ome-zarr")
    refs = made_here(plan, tmp_path / "made", Identity(), **same_range(plan))
    source = plan.originals[0].ref.open()
    box = tuple((0, edge) for edge in SHAPE)
    made = refs[0].open()
    np.testing.assert_array_equal(made.read("tumour", box), source.read("anatomy", box))
    np.testing.assert_array_equal(made.read("label", box), source.read("label", box))
    assert (made.spacing.z, made.spacing.y, made.spacing.x) == pytest.approx((4, 1.5, 2))
    # 500 does not fit a label group, so classes are written by their numbers, with their names.
    assert refs[0].labels == {1: "left ventricle", 2: "myocardium"}


def write_images(folder):
    """Separate images of both domains, of two patients each, whom tables name."""
    entries = []
    for name in ("ct", "mr"):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        rows = ["file,organ,patient"]
        for k in range(10):
            random = np.random.default_rng([k, name == "mr"])
            Image.fromarray(random.integers(0, 200, (24, 24)).astype(np.uint8)).save(folder / f"{name}/images/{k}.png")
            mask = np.zeros((24, 24), np.uint8)
            mask[4:9, 4 : 8 + k] = 1
            Image.fromarray(mask).save(folder / f"{name}/masks/{k}.png")
            rows.append(f"{k}.png,heart,{name}{k // 2}")
        (folder / f"{name}.csv").write_text("\n".join(rows))
        paths = {"path": f"{name}/images", "label": f"{name}/masks", "table": f"{name}.csv"}
        entries.append({"id": f"{name}-slices", "domain": name, **paths})
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"volumes": entries}))


def test_of_separate_images_those_that_are_trained_on_are_translated_by_name(tmp_path):
    write_images(tmp_path / "data")
    tiles = cut(tmp_path, kind="slice", size=24, gap=0)
    plan = plan_of(tmp_path, tiles)
    refs = made_here(plan, tmp_path / "made", Identity(), ranges=plan.originals[0].ranges, dtype="uint8")
    own = tiles.index[tiles.index["domain"] == "ct"]
    names = own["name"][own["split"] == "train"].tolist()
    assert 0 < len(names) < 10
    made = refs[0].open()
    assert list(made.names) == names
    assert made.table["patient"].tolist() == [f"ct{int(name[0]) // 2}" for name in names]
    for kind, folder in (("images", "image"), ("masks", "label")):
        for name in names:
            source = np.asarray(Image.open(tmp_path / f"data/ct/{kind}/{name}"))
            np.testing.assert_array_equal(
                np.asarray(Image.open(tmp_path / "made/ct-slices-as-mr" / folder / name)), source
            )


def test_volumes_of_which_a_part_is_held_out_are_left_out_and_refused_by_name(tmp_path, mistake):
    changes = {"ct-0": {"split": "test"}, "ct-1": {"split": "val"}}
    write_data(tmp_path / "data", changes=changes)
    tiles = cut(tmp_path)
    run = write_run(tmp_path, tiles)
    plan = planned_synthesis(asked(tmp_path, run))
    held = sorted(set(tiles.index["volume"][tiles.index["domain"] == "ct"]) - set(training_volumes(tiles, "ct")))
    assert [original.ref.id for original in plan.originals] == training_volumes(tiles, "ct")
    assert plan.left_out == (
        "left out, because they are held out of the training: " + ", ".join(f"{n} ({side(tiles, n)})" for n in held),
    )
    with mistake("synthesis.anatomies: volume 'ct-0' has no training tiles (test only)"):
        planned_synthesis(asked(tmp_path, run, anatomies=["ct-0"]))
    with mistake("synthesis.anatomies: no volume 'mr-2'", "ct-4"):
        planned_synthesis(asked(tmp_path, run, anatomies=["mr-2"]))
    first, *_ = training_volumes(tiles, "ct")
    chosen = planned_synthesis(asked(tmp_path, run, anatomies=[first]))
    assert [original.ref.id for original in chosen.originals] == [first]


def side(tiles, volume):
    return tiles.index["split"][tiles.index["volume"] == volume].iloc[0]


def test_slabs_are_no_whole_volumes(tmp_path, mistake):
    write_data(tmp_path / "data", shape=(20, 20, 28), shared=0)
    tiles = cut(tmp_path, size=(2, 20, 28), stride=(2, 20, 28), split_by="slab", slab_axis="z", gap=0)
    run = write_run(tmp_path, tiles)
    with mistake("synthesis.tiles: ", "no volume of the domain 'ct' is wholly free of test tiles", "tiles.split_by"):
        planned_synthesis(asked(tmp_path, run))
    with mistake("synthesis.anatomies: a part of volume 'ct-1' is held out (test)"):
        planned_synthesis(asked(tmp_path, run, anatomies=["ct-1"]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"count": 5}, "synthesis.count: the generator was trained on two domains"),
        ({"gate": 0.5}, "synthesis.gate: the generator was trained on two domains"),
        ({"region": "heart"}, "synthesis.region: heart, but the tiles of 'ct' were cut as light-sheet"),
    ],
)
def test_what_does_not_suit_translation_is_one_line(tiles, tmp_path, mistake, fields, said):
    run = write_run(tmp_path, tiles)
    with mistake(said):
        planned_synthesis(asked(tmp_path, run, **fields))


def test_tiles_volumes_and_generators_that_do_not_fit_are_one_line(tiles, tmp_path, mistake):
    run = write_run(tmp_path, tiles)
    other = cut_here(recipe_of(tmp_path / "data", tiles={"kind": "crop", "size": (4, 16, 16)}), tmp_path / "other")
    with mistake(f"synthesis.tiles: {other.uri}: tile shape [4, 16, 16], the generator was trained with [8, 20, 28]"):
        planned_synthesis(asked(tmp_path, run, tiles=other.uri))
    flat = recipe_of(tmp_path / "data", tiles={"kind": "projection", "depth": 2, "step": 2, "size": 16, "stride": 16})
    (tmp_path / "p").mkdir()
    projections = cut_here(flat, tmp_path / "p/set")
    with mistake("synthesis.model: trained on projections, each of which shows many planes"):
        planned_synthesis(asked(tmp_path, write_run(tmp_path / "p", projections)))
    (tmp_path / "data/mr-1.nii.gz").unlink()
    with mistake("synthesis.tiles: ", "mr-1.nii.gz: not found", "name the data set that they were cut from"):
        planned_synthesis(asked(tmp_path, run))


def test_volumes_without_affines_are_no_nifti(tmp_path, mistake):
    write_images(tmp_path / "data")
    tiles = cut(tmp_path, kind="slice", size=24, gap=0)
    with mistake("synthesis.format: 'ct-slices' is a folder of separate images"):
        plan_of(tmp_path, tiles, format="nifti")


@pytest.mark.parametrize(("field", "value"), [("direction", "sideways"), ("region", "liver")])
def test_new_fields_take_the_values_that_they_list(field, value):
    with pytest.raises(ValueError, match=f"synthesis.{field}"):
        Recipe.model_validate({"synthesis": {field: value}})


def carry_out(command):
    plan = planned_synthesis(command)
    run = untracked(command.recipe)
    plan.carry_out(run)
    return run


def test_a_job_that_goes_on_makes_only_what_is_missing_with_the_same_bytes(tiles, tmp_path, ray_cluster, capsys):
    """What was there already was made in this process, what is missing is made by a task of Ray's."""
    command = asked(tmp_path, write_run(tmp_path, tiles), overlap=0.25, replicas=1)
    plan, run = planned_synthesis(command), tmp_path / "out" / "made"
    job = replace(plan.job, folder=str(run / "volumes"))
    worker = Translator(job, Windowed(job))
    made = [worker.translate(original) for original in plan.originals]
    digest = plan.describe(job, made)
    files = {path: path.read_bytes() for path in (run / "volumes").rglob("*") if path.is_file()}
    assert len(files) == 2 * len(training_volumes(tiles, "ct")) + 1
    # As if it had been stopped before the first volume was there.
    (run / "translated").mkdir()
    (run / "translated/plan.json").write_text(json.dumps(plan.facts(job), sort_keys=True))
    for one in made[1:]:
        (run / "translated" / f"{one['name']}.json").write_text(json.dumps(one))
    first, *others = (run / "volumes" / f"{one['name']}.nii.gz" for one in made)
    kept = {path: path.stat().st_mtime_ns for path in others}
    first.unlink()
    (run / "volumes/dataset.yaml").unlink()
    made_again = carry_out(command)
    assert f"{len(others)} of {len(made)} volumes are there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (run / "volumes").rglob("*") if path.is_file()} == files
    assert {path: path.stat().st_mtime_ns for path in others} == kept
    artefacts, recorded = made_again.result.artefacts, made_again.recorded
    assert artefacts["voxels_sha256"] == digest
    assert [(context, seen) for context, _, seen in recorded] == [("source", tiles.digest), ("generated", digest)]
    assert Path(artefacts["preview"]).read_bytes().startswith(b"\x89PNG")
    written = open_volume(str(first))
    assert np.unique(written.read(written.channels[0], whole(written))).size > 100

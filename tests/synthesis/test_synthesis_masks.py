"""Masks drawn as a data set: where they lie, that a seed gives the same bytes, what they say they come from."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from mask_sets import SHAPE, SPACING, affine, cut_masks, recipe_of, write_masks
from two_domains import cut_here
from untracked import untracked
from untrained import write_untrained

from metgan_dist.recipe import Data, Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.drawing import Batch, Drawer, place_of
from metgan_dist.synthesis.masks import MaskSynthesis
from metgan_dist.synthesis.synthesis import planned_synthesis
from metgan_dist.trained import checkpoint_digest
from metgan_dist.volumes.dataset import resolve_data, volume_refs


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with masks, their tiles, and the run of an untrained generator of them."""
    folder = tmp_path_factory.mktemp("learned")
    tiles = cut_masks(folder, 20, tiles={"val": 0.2, "test": 0.2})
    recipe = recipe_of(folder / "masks")
    run = folder / "run"
    checkpoint = write_untrained(run / "train/lesion_wgan/images-000000000", recipe)
    (run / "run.json").write_text(json.dumps({"job": "train_metgan", "mlflow_run_id": "1" * 32, "recipe": {}}))
    made = {"status": "finished", "artefacts": {"tiles": tiles.uri, "best_checkpoint": checkpoint}}
    (run / "result.json").write_text(json.dumps(made))
    return folder, tiles


def asked(folder, out, **synthesis):
    given = {"model": str(folder / "run"), "count": 5, "batch_size": 2, "seed": 3, **synthesis}
    tree = {"synthesis": given, "storage": {"path": str(out)}, "tracking": {"run": "made"}}
    recipe = Recipe.model_validate({**tree, "data": {"path": str(folder / "masks")}})
    return Command(recipe, "quickstart", False, False, given={"synthesis": given})


def drawn(plan, folder):
    """The data set of a plan, drawn in this process, and the digest of its voxels."""
    job = replace(plan.job, folder=str(folder))
    worker = Drawer(job)
    made = [mask for batch in plan.batches.values() for mask in worker.draw(batch)["masks"]]
    return plan.describe(job, made), made


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.nii.gz")}


def test_batches_cover_the_count_and_masks_follow_from_seed_and_number_alone(learned, tmp_path):
    folder, _ = learned
    plan = planned_synthesis(asked(folder, tmp_path))
    assert isinstance(plan, MaskSynthesis)
    assert list(plan.batches.values()) == [Batch(0, 2), Batch(2, 2), Batch(4, 1)]
    digest, made = drawn(plan, tmp_path / "one")
    again, _ = drawn(planned_synthesis(asked(folder, tmp_path)), tmp_path / "again")
    assert digest == again
    assert files(tmp_path / "one") == files(tmp_path / "again")
    assert (tmp_path / "one/dataset.yaml").read_bytes() == (tmp_path / "again/dataset.yaml").read_bytes()
    drawn(planned_synthesis(asked(folder, tmp_path, count=8)), tmp_path / "more")
    more = files(tmp_path / "more")
    assert len(more) == 8
    assert {name: more[name] for name in files(tmp_path / "one")} == files(tmp_path / "one")
    other, _ = drawn(planned_synthesis(asked(folder, tmp_path, seed=4)), tmp_path / "other")
    assert other != digest
    assert len({one["voxels_sha256"] for one in made}) == 5


def test_the_data_set_reads_as_masks_and_says_what_the_generator_has_seen(learned, tmp_path):
    folder, tiles = learned
    digest, made = drawn(planned_synthesis(asked(folder, tmp_path)), tmp_path / "made")
    refs = volume_refs(resolve_data(Data(path=str(tmp_path / "made"))))
    assert [ref.id for ref in refs] == [f"mask-{number:06d}" for number in range(5)]
    for ref, one in zip(refs, made, strict=True):
        volume = ref.open()
        mask = volume.read("label", tuple((0, edge) for edge in volume.shape))
        assert volume.shape == (8, 16, 24)
        assert mask.sum() == one["measures"]["voxels"]
    written = yaml.safe_load((tmp_path / "made/dataset.yaml").read_text())
    section = written["synthesis"]
    assert written["labels"] == {1: "lesion"}
    assert {entry["split"] for entry in written["volumes"]} == {"train"}
    assert section["voxels_sha256"] == digest
    assert section["model"]["sha256"] == checkpoint_digest(str(folder / "run"))
    assert section["tiles"] == {"uri": tiles.uri, "digest": tiles.digest}
    assert [one["seed"] for one in section["volumes"]] == [[3, number] for number in range(5)]
    known = tiles.index[tiles.index["split"].isin(["train", "val"])]
    assert section["seen"] == {"volumes": sorted(known["volume"]), "patients": sorted(known["patient"])}
    assert not set(section["seen"]["patients"]) & set(tiles.index["patient"][tiles.index["split"] == "test"])
    for one in section["volumes"]:
        assert (one["nearest"] is None) == (one["nearest_dice"] == 0)
        assert one["nearest"] is None or one["nearest"] in set(known["volume"][known["split"] == "train"])
    cut = cut_here(recipe_of(tmp_path / "made", tiles={"val": 0, "test": 0}), tmp_path / "cut")
    assert cut.manifest["synthesis"]["seen"] == section["seen"]


def test_masks_lie_where_those_lie_that_were_learned_from(learned, tmp_path):
    folder, tiles = learned
    plan = planned_synthesis(asked(folder, tmp_path))
    row = tiles.index.iloc[tiles.positions("train")[0]]
    first = np.array([row["x0"], row["y0"], row["z0"], 1.0])
    np.testing.assert_allclose(plan.job.place.affine[:3, 3], (affine() @ first)[:3])
    drawn(plan, tmp_path / "made")
    image = nibabel.load(tmp_path / "made/mask-000000.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), SPACING[::-1])
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")


def test_on_the_papers_grid_the_affine_keeps_the_middle_and_the_exact_voxel(tmp_path):
    folder = write_masks(tmp_path / "masks", 5)
    recipe = recipe_of(folder, tiles={"modality": "brain-dwi", "size": [32, 128, 128], "stride": None})
    tiles = cut_here(recipe, tmp_path / "tiles")
    place = place_of(tiles, {ref.id: ref for ref in volume_refs(recipe.data)})
    sizes = np.array(SPACING) * np.array(SHAPE) / np.array([40, 128, 128])
    np.testing.assert_allclose(np.diag(place.affine)[:3], sizes[::-1])
    middle = np.array([63.5, 63.5, 15.5, 1])
    source = np.array([(edge - 1) / 2 for edge in SHAPE[::-1]] + [1])
    np.testing.assert_allclose(place.affine @ middle, affine() @ source)
    assert (place.spacing.z, place.spacing.y, place.spacing.x) == pytest.approx(tuple(sizes))


def test_what_masks_have_no_use_for_is_refused(learned, tmp_path, mistake):
    folder, _ = learned
    with mistake("synthesis.gate: the generator draws masks from nothing but their seeds"):
        planned_synthesis(asked(folder, tmp_path, gate=0.5))
    other = cut_masks(tmp_path / "other", 6)
    with mistake(f"synthesis.tiles: {other.uri}: masks are drawn from nothing", "leave it out"):
        planned_synthesis(asked(folder, tmp_path, tiles=other.uri))


def test_a_job_that_goes_on_draws_only_what_is_missing_with_the_same_bytes(learned, tmp_path, ray_cluster, capsys):
    """What was there already was drawn in this process, what is missing by a task of Ray's."""
    folder, tiles = learned
    command = asked(folder, tmp_path / "out", replicas=1)
    plan, run = planned_synthesis(command), tmp_path / "out/made"
    digest, _ = drawn(plan, run / "masks")
    before = files(run / "masks")
    job = replace(plan.job, folder=str(run / "masks"))
    (run / "drawn").mkdir()
    (run / "drawn/plan.json").write_text(json.dumps(plan.facts, sort_keys=True))
    for name, batch in list(plan.batches.items())[1:]:
        (run / "drawn" / f"{name}.json").write_text(json.dumps(Drawer(job).draw(batch)))
    (run / "masks/mask-000000.nii.gz").unlink()
    kept = (run / "masks/mask-000004.nii.gz").stat().st_mtime_ns
    opened = untracked(command.recipe)
    plan.carry_out(opened)
    told = capsys.readouterr().out
    assert "masks: 2 of 3 batches are there already" in told
    assert "masks: 5 drawn; real ones of 4 units" in told
    assert files(run / "masks") == before
    assert (run / "masks/mask-000004.nii.gz").stat().st_mtime_ns == kept
    assert opened.result.artefacts["voxels_sha256"] == digest
    assert opened.result.scores["masks"]["empty"] <= 1
    seen = int(tiles.index["split"].isin(["train", "val"]).sum())
    assert opened.recorded == [("source", seen, tiles.digest), ("generated", 5, digest)]
    for name in ("preview", "plot"):
        assert Path(opened.result.artefacts[name]).read_bytes().startswith(b"\x89PNG")

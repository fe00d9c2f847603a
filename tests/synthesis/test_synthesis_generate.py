"""Generation: the same pixels whatever the number of replicas and whatever was killed, and every tile's origin."""

import json
import shutil

import numpy as np
import pytest
import ray
from PIL import Image

from metgan_dist.errors import UserError
from metgan_dist.methods.redgan import RedGan
from metgan_dist.recipe import Recipe
from metgan_dist.synthesis import compose
from metgan_dist.synthesis.compose import Composer, StoredTiles, planned_tiles
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.dataset import finish_set, pixels_digest
from metgan_dist.synthesis.generate import (
    ComposeStage,
    GenerateStage,
    WriteStage,
    generate,
    planned_row,
    shard_jobs,
)
from metgan_dist.synthesis.summary import lesion_plot, preview, real_lesions, summarise, synthetic_lesions
from metgan_dist.synthesis.synthesis import TileSynthesis
from metgan_dist.tiles.shards import read_tile
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_generator

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = {"count": 20, "shard": 6, "batch_size": 4, "tissue": -0.9, "seed": 3, "threads": 1}


def planned(model, **settings):
    recipe = Recipe.model_validate({"synthesis": {**SMALL, "model": model, **settings}})
    return TileSynthesis.planned(recipe)


def make(synthesis, folder, replicas):
    """The set, and the markers of its shards, made on Ray Data."""
    work = synthesis.work(str(folder), "auto", {})
    crew = Crew(replicas, 0.5, 0.0, 2, 0.25)
    return finished(synthesis, folder, generate(work, synthesis.plan(), synthesis.drawings, crew, lambda line: None))


def make_here(synthesis, folder):
    """The same in this process, stage after stage."""
    work = synthesis.work(str(folder), "auto", {})
    stages = ComposeStage(work, ray.put(synthesis.drawings)), GenerateStage(work, "cpu"), WriteStage(work)
    markers = {}
    for name, rows in shard_jobs(synthesis.plan(), synthesis.settings.shard).items():
        row = planned_row(name, rows)
        for stage in stages:
            row = stage(row)
        assert not row["mistake"]
        markers[name] = json.loads(row["part"])["marker"]
    return finished(synthesis, folder, markers)


def finished(synthesis, folder, markers):
    gate = synthesis.settings.gate
    made = finish_set(str(folder), synthesis.tiles, markers, synthesis.facts, "tumour", gate, synthesis.fingerprint, {})
    return made, markers


@pytest.fixture(scope="module")
def model(checkpoint, source):
    """A generator whose run was trained on `source`."""
    return checkpoint(tiles=source)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory, ray_cluster):
    """A finished set made by one replica: (set, markers)."""
    return make(planned(model), tmp_path_factory.mktemp("whole"), 1)


def test_two_replicas_make_the_same_set(whole, model, tmp_path):
    made, _ = make(planned(model), tmp_path, replicas=2)
    assert made.digest == whole[0].digest
    assert made.uri != whole[0].uri


def test_the_stages_one_after_the_other_make_the_same_set(whole, model, tmp_path):
    assert make_here(planned(model), tmp_path)[0].digest == whole[0].digest
    assert make_here(planned(model, seed=4, count=4), tmp_path / "other")[0].digest != whole[0].digest


def test_only_unfinished_shards_are_made_again(whole, model, tmp_path):
    """A kill leaves finished shards, one whose marker is missing, and one that is half written."""
    folder = tmp_path / "tiles"
    shutil.copytree(whole[0].uri, folder)
    for name in ("manifest.json", "index.parquet", "shards/0000001.json", "shards/0000002.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "shards" / "0000002.zarr" / "tumour")
    done = [file for name in ("0000000", "0000003") for file in folder.glob(f"shards/{name}*/**/*") if file.is_file()]
    done += [folder / "shards" / f"{name}.json" for name in ("0000000", "0000003")]
    kept = {file: file.stat().st_mtime_ns for file in done}
    assert len(kept) > 6
    made, _ = make(planned(model), folder, 1)
    assert made.digest == whole[0].digest
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert sorted(path.name for path in (folder / "shards").glob("*.zarr")) == [f"{k:07d}.zarr" for k in range(4)]


def test_a_synthetic_set_is_a_tile_set_with_origins(whole, source):
    made = TileSet.open(whole[0].uri)
    index = made.index
    assert len(index) == 20
    assert set(source.index.columns) <= set(index.columns)
    assert set(index["split"]) == {"train"}
    assert (index["fold"] == -1).all()
    assert index["gate_dice"].isna().all()
    for row in range(20):
        tile, origin = made.load(row), index.iloc[row]
        own = source.load(origin["source_tile"])
        np.testing.assert_array_equal(tile["anatomy"], own["anatomy"])
        assert origin["volume"] == source.index["volume"].iloc[origin["source_tile"]]
        assert source.index["split"].iloc[origin["source_tile"]] == "train"
        assert np.count_nonzero(tile["label"]) == origin["foreground"] > 0
        sources = json.loads(origin["label_sources"])
        facts = json.loads(origin["transform"])
        assert len(sources) == (1 if origin["kind"] != "merged" else len(sources)) <= 3
        if origin["kind"] in ("real", "merged") and not facts:
            expected = np.zeros_like(tile["label"])
            for part in sources:
                label = source.load(part["tile"])["label"]
                expected[label > 0] = label[label > 0]
            np.testing.assert_array_equal(tile["label"], expected)
        assert {"angle", "scale", "elastic"} <= facts.keys() or origin["kind"] != "transformed"
    (batch,) = tile_batches(made, [0, 1, 2], 3)
    assert batch["tumour"].shape == (3, 1, 64, 64)


def test_the_generator_is_told_of_the_organ_of_each_anatomy(checkpoint, write_source, tmp_path, monkeypatch):
    """Organs that the generator counts in another order than the tiles' list."""
    tiles, told = write_source(), []
    method = {"name": "redgan", "width": 1 / 16, "segmentor_width": 1 / 16, "organs": ["lung", "spleen", "liver"]}
    model = checkpoint("redgan", tiles=tiles, method=method)
    synthesis = planned(model)
    translate = RedGan.translate
    monkeypatch.setattr(
        RedGan, "translate", lambda self, batch: told.extend(batch["organ"].tolist()) or translate(self, batch)
    )
    made = make_here(synthesis, tmp_path / "made")[0]
    assert [method["organs"][place] for place in told] == made.index["organ"].tolist()
    assert len(set(told)) == 2
    assert made.organs == ("liver", "lung")
    with pytest.raises(UserError, match=r"synthesis.tiles: .*: brain, no organ is none of the organs .* lung, spleen,"):
        planned(model, tiles=write_source(organs=("brain", "")).uri)


def test_images_are_the_generators_on_these_labels(whole, model):
    made = whole[0]
    (batch,) = tile_batches(made, range(4), 4)  # the first batch of the first shard
    image = load_generator(model).translate({"anatomy": batch["anatomy"], "label": batch["label"]})
    assert np.abs((image - batch["tumour"]).numpy()).max() < 1e-4


def test_the_manifest_names_model_tiles_and_shards(whole, model, source):
    manifest = whole[0].manifest
    section = manifest["synthesis"]
    assert section["model"]["uri"] == model
    assert section["model"]["method"] == "metgan"
    assert section["model"]["run"] == "0" * 31 + "1"
    assert section["tiles"] == {"uri": source.uri, "digest": source.digest}
    assert section["segmentor"] is None
    assert section["precision"] == ["fp32"]
    assert "replicas" not in section["settings"]
    assert section["settings"]["seed"] == 3
    assert manifest["counts"]["train"] == 20
    roles = ("anatomy", "tumour", "label")
    shard = {
        role: np.stack([read_tile(whole[0].uri, "0000003", role, k, whole[0].digest, None) for k in range(2)])
        for role in roles
    }
    assert manifest["shards_sha256"]["0000003"] == pixels_digest(shard)
    assert list(manifest["shards_sha256"]) == [f"{number:07d}" for number in range(4)]


def test_labels_lie_in_tissue_and_what_was_done_is_counted(whole, source):
    summary = summarise(whole[0], synthetic_lesions(*whole), real_lesions(source))
    for row in range(len(whole[0].index)):
        label = whole[0].load(row)["label"]
        assert np.mean(np.argwhere(label)[:, 1] < 50) > 0.5  # tissue ends at column 48
    facts = [json.loads(text) for text in whole[0].index["transform"]]
    assert summary["placement"]["moved"] == sum(len(fact.get("moved", [])) for fact in facts)
    lesions = summary["lesions"]
    assert lesions["sizes"]["real"]["count"] == 6
    assert lesions["per_tile"]["synthetic"]["count"] == 20
    assert 0 <= lesions["intensities"]["distance"] <= 1
    assert lesion_plot(synthetic_lesions(*whole), real_lesions(source)).startswith(b"\x89PNG")
    assert preview(whole[0], "train", 3).startswith(b"\x89PNG")
    assert preview(whole[0], "rejected", 3) is None


def test_the_gate_counts_what_it_drops(model, checkpoint, tmp_path, whole):
    synthesis = planned(model, gate=0.05, segmentor=checkpoint("segmentor", seed=5))
    made, markers = make_here(synthesis, tmp_path)
    dice = made.index["gate_dice"]
    assert dice.between(0, 1).all()
    assert dice.nunique() > 3
    kept = dice >= 0.05
    assert 0 < kept.sum() < 20
    assert ((made.index["split"] == "train") == kept).all()
    counts = made.manifest["counts"]
    assert (counts["train"], counts["rejected"]) == (kept.sum(), (~kept).sum())
    assert made.manifest["synthesis"]["segmentor"]["sha256"] == synthesis.segmentor_digest
    lesions = synthetic_lesions(made, markers)
    assert len(lesions.per_tile) == kept.sum()
    assert len(lesions.sizes) == lesions.per_tile.sum() == len(lesions.intensities)
    assert lesions.sizes.sum() == made.index["foreground"][kept].sum()
    assert preview(made, "rejected", 3).startswith(b"\x89PNG")
    # The gate decides what is kept, never what is made.
    assert made.manifest["shards_sha256"] == whole[0].manifest["shards_sha256"]


def test_several_images_of_a_label(checkpoint, source, tmp_path):
    made, _ = make_here(planned(checkpoint("spade_vae", tiles=source), count=3, samples=4), tmp_path)
    assert len(made.index) == 12
    tiles = [made.load(row) for row in range(4)]
    assert made.index["sample"].tolist() == [0, 1, 2, 3] * 3
    for tile in tiles[1:]:
        np.testing.assert_array_equal(tile["label"], tiles[0]["label"])
        assert (tile["tumour"] != tiles[0]["tumour"]).mean() > 0.1  # hardly: the generator is untrained


def test_more_than_two_classes_and_drawings(write_source, checkpoint, tmp_path):
    tiles = write_source(classes=4)
    Image.fromarray(np.full((5, 7), 3, np.uint8)).save(tmp_path / "mine.png")
    model = checkpoint(tiles=tiles, data={"classes": 4})
    synthesis = planned(model, drawn=4, labels=str(tmp_path / "mine.png"))
    made, _ = make_here(synthesis, tmp_path / "tiles")
    drawn = made.index[made.index["kind"] == "drawn"]
    assert len(drawn) > 3
    for row in drawn.index:
        assert np.count_nonzero(made.load(row)["label"] == 3) == 35
        (origin,) = json.loads(drawn["label_sources"][row])
        assert origin["file"] == "mine.png"
    others = made.index.index.difference(drawn.index)
    assert {1, 2, 3} >= {int(k) for row in others for k in np.unique(made.load(row)["label"])} - {0}


def test_pixels_read_last_are_kept_up_to_a_size(source, monkeypatch):
    asked = []
    read = compose.read_tile
    monkeypatch.setattr(compose, "read_tile", lambda *where: asked.append(where[2:4]) or read(*where))
    one = read(source.uri, source.index["shard"][0], "label", 0, source.digest, {}).nbytes
    stored = StoredTiles(source, kept=2 * one)
    for row in (0, 1, 0, 1, 2, 2, 0):
        np.testing.assert_array_equal(stored.read(row, "label"), source.load(row)["label"])
    assert [position for _, position in asked] == source.index["position"][[0, 1, 2, 0]].tolist()
    with pytest.raises(ValueError, match="read-only"):
        stored.read(0, "label")[:] = 0
    StoredTiles(source, kept=1).read(0, "label")  # too large to be kept is no error


def test_a_label_without_room_gets_another_anatomy_or_a_clear_word(model, source):
    synthesis = planned(model, tissue=0.9)
    composer = Composer(StoredTiles(synthesis.tiles), synthesis.sources, synthesis.settings)
    with pytest.raises(UserError, match=r"synthesis.tissue: tile 0: no lesion"):
        composer.compose(planned_tiles(synthesis.plan())[0])


def test_a_mistake_in_a_task_travels_through_the_stages_as_one_line(model, tmp_path):
    synthesis = planned(model, tissue=0.9)
    work = synthesis.work(str(tmp_path), "auto", {})
    row = planned_row("0000000", synthesis.plan())
    for stage in (ComposeStage(work, ray.put([])), GenerateStage(work, "cpu"), WriteStage(work)):
        row = stage(row)
        assert row["mistake"].startswith("synthesis.tissue: tile 0")
    assert not list(tmp_path.iterdir())

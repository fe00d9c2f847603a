"""Scoring a method on held-out tiles, during the training (all ranks together) and after it (per split and volume)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from metgan_dist.figures import Voxel, by_channel, image_grid, most_label
from metgan_dist.methods.method import Method
from metgan_dist.scores.fidelity import SHARE, doubt, share_of_real
from metgan_dist.scores.reference import TRIVIAL, References, fit_references
from metgan_dist.scores.scored import IMAGE_SCORES, Scored, TileScorer
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.step import Batch, Stepper

BATCH = 4
PICTURES = 4
# Whose channels the pictures of a method have, where these are no label's.
SHOWN_AS = dict.fromkeys(("anatomy", "cycled"), "anatomy") | dict.fromkeys(("tumour", "generated", "real"), "tumour")


def chosen_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spaced, always the same ones."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@dataclass
class Validator:
    """Scores the live method on the validation tiles `rows`; every rank takes every `world`-th tile.

    `real`: tiles whose tumour images the judge sees for comparison; `rows` themselves where not given.
    """

    tiles: TileSet
    rows: np.ndarray
    judge: Method | None
    device: torch.device
    rank: int = 0
    world: int = 1
    real: np.ndarray | None = None
    _real: float | None = field(default=None, init=False)

    def __call__(self, stepper: Stepper) -> tuple[dict[str, float], bytes | None]:
        """Scores over all ranks and, on rank 0, a PNG grid; nothing where there are no validation tiles.

        A translation gets the image scores and `label_fidelity` (the judge's Dice), also as share of what the judge
        finds in the real images (SHARE), unless that is next to nothing; of images of a domain without pairs the error
        of its cycle takes the place of the image scores. A segmentation gets `dice`. Neither where no class occurs.
        """
        if not len(self.rows):
            return {}, None
        with stepper.inference() as method:
            scorer = _scorer(self.tiles, self.judge)
            for batch in tile_batches(self.tiles, self.rows[self.rank :: self.world], BATCH, method.organs):
                batch = _to(batch, self.device)
                output = method.translate(batch)
                scorer.add(batch, output, method.cycle(batch, output))
            picture = None
            if self.rank == 0:
                picture = grid(method, self.tiles, picture_rows(self.tiles, self.rows), self.device)
        real = self._of_real() if self._real is None and self.judge is not None else None
        parts: list[Any] = [(scorer.scored(), real)]
        if self.world > 1:
            parts *= self.world
            dist.all_gather_object(parts, parts[0])
        scored = Scored.joined(part for part, _ in parts)
        if not {"mae", "cycle_mae"} & set(scored.per_tile):
            return scored.summary("dice"), picture
        scores = scored.summary()
        if real is not None:
            self._real = Scored.joined(part for _, part in parts).summary().get("label_fidelity", 0.0)
        if (share := share_of_real(scores.get("label_fidelity"), self._real)) is not None:
            scores[SHARE] = share
        return scores, picture

    def _of_real(self) -> Scored:
        """What the judge finds in the real images of this rank's tiles, which do not change."""
        rows = self.rows if self.real is None else self.real
        return _judged_real(self.tiles, rows[self.rank :: self.world], self.judge, self.device)


def _judged_real(tiles: TileSet, rows: np.ndarray, judge: Method | None, device: torch.device) -> Scored:
    """What the judge finds in the real tumour images of labelled tiles."""
    scorer = _judge_alone(tiles, judge)
    for batch in tile_batches(tiles, rows, BATCH):
        batch = _to(batch, device)
        scorer.add(batch, batch["tumour"])
    return scorer.scored()


def _scorer(tiles: TileSet, judge: Method | None) -> TileScorer:
    """Of translations: compared with the real images and, by the judge, with the labels, where the tiles have them."""
    judged = judge if tiles.has("anatomy", "label") else None
    images = IMAGE_SCORES if tiles.has("anatomy", "tumour") else ()
    return TileScorer(_classes(tiles), None if judged is None else judged.translate, images)


def _judge_alone(tiles: TileSet, judge: Method | None) -> TileScorer:
    return TileScorer(_classes(tiles), None if judge is None else judge.translate, ())


def _classes(tiles: TileSet) -> int:
    return int(tiles.manifest["data"]["classes"])


def picture_rows(tiles: TileSet, rows: np.ndarray, count: int = PICTURES) -> np.ndarray:
    """Rows worth looking at: evenly spaced among those with foreground, others only where these are too few."""
    foreground = tiles.index["foreground"].to_numpy()[rows]
    filled, empty = rows[foreground > 0], rows[~(foreground > 0)]
    return chosen_rows(filled, count) if len(filled) >= count else np.concatenate([filled, empty])[:count]


def grid(method: Method, tiles: TileSet, rows: np.ndarray, device: torch.device) -> bytes:
    """PNG of the method's pictures (anatomy, label, generated, real, cycled), a tile a row, a channel a column.

    Crops are cut where they hold most label.
    """
    columns: dict[str, list[np.ndarray]] = {}
    through: list[Voxel] = []
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, 1, method.organs):
            for name, images in method.pictures(_to(batch, device)).items():
                columns.setdefault(name, []).append(images[0].float().cpu().numpy())
            if len(tiles.shape) == 3 and "label" in batch:
                through.append(most_label(batch["label"][0].numpy()))
    parts = (by_channel(name, images, tiles.channels(SHOWN_AS.get(name, "label"))) for name, images in columns.items())
    return image_grid({title: images for part in parts for title, images in part.items()}, through=through)


def references(tiles: TileSet) -> References:
    """The trivial predictions, fitted on the training tiles alone."""
    batches = tile_batches(tiles, tiles.positions("train"), BATCH)
    return fit_references((batch["anatomy"], batch["tumour"]) for batch in batches)


def score_with_references(
    method: Method,
    tiles: TileSet,
    rows: np.ndarray,
    judge: Method | None,
    trivial: References | None,
    device: torch.device,
) -> dict[str, Scored]:
    """Scores on `rows` of the method (`generated`), of the trivial predictions (`identity`, `affine`), and of the judge
    on the real images (`real`); without `trivial`, where there are no pairs, of the method alone."""
    scorers = {name: _scorer(tiles, judge) for name in ("generated", *(trivial.names if trivial else ()))}
    if trivial is not None:
        scorers["real"] = _judge_alone(tiles, judge)
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, BATCH, method.organs):
            batch = _to(batch, device)
            generated = method.translate(batch)
            scorers["generated"].add(batch, generated, method.cycle(batch, generated))
            if trivial is None:
                continue
            for name, output in {**trivial.predictions(batch["anatomy"]), "real": batch["tumour"]}.items():
                scorers[name].add(batch, output)
    return {name: scorer.scored() for name, scorer in scorers.items()}


def evaluate_splits(
    method: Method, tiles: TileSet, judge: Method | None, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    """The method beside the trivial predictions on the test tiles, and on volumes that no split ever touched.

    Returns, by split, `{"tiles": n, "generated": {...}, "identity": {...}, "affine": {...}, "real": {"label_fidelity":
    d}}`, and the same for each volume under `per_volume` where there are several. Beside label fidelity the others have
    `label_fidelity_of_real`, its share of d. It is left out where no class occurs, and `identity` where anatomy and
    tumour have different numbers of channels; `say` gets a line for either, and one for a judge that is blind.

    Of two domains the tiles are those of the source: `generated` has the error of the cycle in place of a comparison
    with the real image, `identity` and `affine` are left out, and `real` is what the judge finds in the labelled tiles
    of the target.
    """
    trivial = _references_or_none(tiles, say)
    results: dict[str, Any] = {}
    for split in ("test", "unseen"):
        rows = tiles.positions(split, "anatomy")
        if not len(rows):
            continue
        scored = score_with_references(method, tiles, rows, judge, trivial, device)
        apart = {} if trivial is not None else _real_apart(tiles, split, judge, device)
        results[split] = _summaries(scored, rows, apart)
        volumes = tiles.index["volume"].to_numpy()[rows]
        names = sorted(set(volumes))
        if len(names) > 1:
            results[split]["per_volume"] = {name: _summaries(scored, rows[volumes == name], apart) for name in names}
        say(_line(split, results[split]))
        if judge is not None and (reason := doubt(results[split]["real"].get("label_fidelity"))) is not None:
            say(f"{split}: {reason}")
    return results


def _references_or_none(tiles: TileSet, say: Callable[[str], None]) -> References | None:
    """The trivial predictions, where anatomy and tumour images are pairs; `say` is told what is left out."""
    if not tiles.has("anatomy", "tumour"):
        say("MAE, identity and affine: left out, images of two domains are no pairs")
        return None
    trivial = references(tiles)
    if "identity" not in trivial.names:
        anatomy, tumour = (len(tiles.layers(role)) for role in ("anatomy", "tumour"))
        say(f"identity: left out, the anatomy has {anatomy} channel(s) and the tumour image {tumour}")
    return trivial


def _real_apart(tiles: TileSet, split: str, judge: Method | None, device: torch.device) -> dict[str, float]:
    """What the judge finds in the labelled target tiles of a split; nothing without a judge or such tiles."""
    rows = tiles.positions(split, "tumour", "label")
    return _judged_real(tiles, rows, judge, device).summary() if judge is not None and len(rows) else {}


def _summaries(scored: dict[str, Scored], rows: np.ndarray, apart: dict[str, float]) -> dict[str, Any]:
    """Of some tiles; `apart`: the judge's scores on real images, where these are of other tiles."""
    summaries = {"real": apart} | {name: one.of(rows).summary() for name, one in scored.items()}
    real = summaries["real"].get("label_fidelity")
    for name, scores in summaries.items():
        share = share_of_real(scores.get("label_fidelity"), real)
        if name != "real" and share is not None:
            scores[SHARE] = share
    return {"tiles": len(rows), **{name: summaries[name] for name in (*scored, "real")}}


def _line(split: str, scores: dict[str, Any]) -> str:
    error = "mae" if "mae" in scores["generated"] else "cycle_mae"
    shown = "MAE" if error == "mae" else "cycle MAE"
    parts = [f"{name} {shown} {scores[name][error]:.4f}" for name in ("generated", *TRIVIAL) if name in scores]
    found = {name: scores[name].get("label_fidelity") for name in ("generated", "real", "identity") if name in scores}
    shares = {name: scores[name].get(SHARE) for name in found}
    dice = [
        f"{name} {value:.3f}" + (f" ({share:.0%} of real)" if (share := shares[name]) is not None else "")
        for name, value in found.items()
        if value is not None
    ]
    fidelity = f"; label fidelity {', '.join(dice)}" if dice else ""
    return f"{split}: {scores['tiles']} tiles; {', '.join(parts)}{fidelity}"

"""A trained method scored on tiles that no training saw: the test tiles, and volumes that no split ever touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from metgan_dist.methods.method import Method
from metgan_dist.scores.scored import Scored
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tasks.task import GENERATED, Maker, Task
from metgan_dist.tiles.stream import tile_batches

BATCH = 4
SPLITS = Task.splits  # those that a recipe may leave out


def score_held_out(
    task: Task, method: Method, device: torch.device, say: Callable[[str], None], splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """The scores of each split, with what stands beside the method; `say` gets its line, and what is to be doubted.

    Returns, by split, `{"tiles": n, "generated": {...}, ...}` as `Task.summaries` has it, and the same for each volume
    under `per_volume` where there are several. Of translations that is the method (`generated`), of pairs also the
    trivial predictions (`identity`, `affine`), and what the judge finds in the real images (`real`): `label_fidelity`,
    of which the others have theirs as the share `label_fidelity_of_real`. It is left out where no class occurs. Of two
    domains the tiles are those of the source, and `real` is of the target's; beside them stands what is scored of whole
    places (`Task.whole`).
    """
    beside = task.beside(say)
    results: dict[str, Any] = {}
    for split in task.splits:
        if split in SPLITS and split not in splits:
            continue
        rows = task.rows(split)
        if not len(rows):
            continue
        scored = _score(task, split, {GENERATED: method, **beside}, device)
        results[split] = {"tiles": len(rows), **task.summaries(scored, rows)}
        for maker in (method, None):
            for sample, scores in task.whole(maker, split, device).items():
                results[split].setdefault(sample, {}).update(scores)
        volumes = task.tiles.index["volume"].to_numpy()[rows]
        names = sorted(set(volumes))
        if len(names) > 1:
            own = {name: rows[volumes == name] for name in names}
            results[split]["per_volume"] = {
                name: {"tiles": len(part), **task.summaries(scored, part)} for name, part in own.items()
            }
        say(task.line(split, results[split]))
        if (reason := task.doubt(results[split])) is not None:
            say(f"{split}: {reason}")
    return results


def _score(task: Task, split: str, makers: Mapping[str, Maker], device: torch.device) -> dict[str, Scored]:
    """All samples of a split, and the makers beside the method on its tiles."""
    method = makers[GENERATED]
    scored: dict[str, Scored] = {}
    for sample, rows in task.held_out(split).items():
        who: Mapping[str, Maker | None] = makers if sample == GENERATED else {sample: method}
        who = {sample: None} if sample in task.of_real else who
        scorers = {name: task.scorer(sample) for name in who}
        with torch.no_grad():
            for batch in tile_batches(task.tiles, rows, BATCH, method.organs):
                batch = on_device(batch, device)
                for name, maker in who.items():
                    task.score(sample, scorers[name], batch, maker)
        scored |= {name: scorer.scored() for name, scorer in scorers.items()}
    return scored

"""How values are drawn and which trials go on: Ray Tune's searchers and schedulers as the recipe asks for them."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.tuning.searchers import Drawn, Searcher, Suggested, count_of
from metgan_dist.tuning.space import Space, clamped, point_of, tune_domains
from metgan_dist.tuning.trial import Objective

FIRST = "trial-001"


def check_search(recipe: Recipe) -> None:
    """UserError where the search needs a package that is not there."""
    if recipe.tuning.search != "random" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            f"tuning.search: {recipe.tuning.search} needs the package optuna, which is not installed "
            "(pip install optuna); or use random"
        )


def build_searcher(recipe: Recipe, space: Space, objectives: Sequence[Objective], at_once: int) -> Searcher:
    """Tune's searcher, which begins with the recipe's own values."""
    tuning, own = recipe.tuning, [point_of(recipe, space)]
    if tuning.search == "random":
        return Drawn(points_to_evaluate=own, random_state=tuning.seed, max_concurrent=at_once)
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    several = len(objectives) > 1
    return Suggested(
        at_once,
        metric=[one.key for one in objectives] if several else objectives[0].key,
        mode=[one.mode for one in objectives] if several else objectives[0].mode,
        points_to_evaluate=own,
        seed=tuning.seed,
    )


def build_scheduler(recipe: Recipe, space: Space, objective: Objective, total: int, every: int) -> TrialScheduler:
    """Tune's scheduler. Trials are compared by images: `total` of a whole trial, a report `every` so many."""
    tuning, grace = recipe.tuning, recipe.tuning.grace * total
    common = {"time_attr": "images", "metric": objective.key, "mode": objective.mode}
    if tuning.scheduler == "asha":
        # Not at the last report: a trial that has come this far ends by itself.
        return Halving(
            # Above the grace period at least, as ASHA demands, also where there are few reports.
            max_t=max(total - every, int(grace) + 1),
            grace_period=grace,
            reduction_factor=tuning.reduction,
            stop_last_trials=False,
            **common,
        )
    if tuning.scheduler == "pbt":
        domains = tune_domains(space)
        return Population(
            perturbation_interval=grace,
            burn_in_period=grace,
            # Of a list PBT takes a neighbour; a choice, to Tune, is a number that it multiplies.
            hyperparam_mutations={name: v if isinstance(v, list) else domains[name] for name, v in space.items()},
            custom_explore_fn=functools.partial(clamped, space),
            **common,
        )
    return FIFOScheduler()


class Halving(ASHAScheduler):
    """ASHA (Li et al. 2018) for all trials but the first, which shows what the recipe's own values give in full."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Stop a trial that is not among the best so far; see `tuning.reduction`."""
        # ASHA hears of the first trial, too: others are measured against its scores.
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if str(trial) == FIRST else action


class Population(PopulationBasedTraining):
    """PBT (Jaderberg et al. 2017) for all trials but the first, from which others may take over."""

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        worst, best = super()._quantiles()
        return [trial for trial in worst if str(trial) != FIRST], best


def halving_state(scheduler: TrialScheduler) -> bytes | None:
    """What ASHA has seen, as Tune leaves it out of its own records; None for other schedulers, which need nothing."""
    if not isinstance(scheduler, Halving):
        return None
    with tempfile.TemporaryDirectory(prefix="metgan-asha-") as folder:
        path = Path(folder) / "state"
        scheduler.save(str(path))
        return path.read_bytes()


def restore_halving(scheduler: TrialScheduler, state: bytes | None) -> None:
    """Put `halving_state` back."""
    if state is None or not isinstance(scheduler, Halving):
        return
    with tempfile.TemporaryDirectory(prefix="metgan-asha-") as folder:
        path = Path(folder) / "state"
        path.write_bytes(state)
        scheduler.restore(str(path))


def trial_name(first_number: int, trial: Trial) -> str:
    """E.g. trial-001, by the order in which trials are made; searchers count from `first_number`."""
    return f"trial-{count_of(trial) - first_number + 1:03d}"

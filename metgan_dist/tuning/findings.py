"""What the trials of a sweep say together: which are best, which trade one score for another, what stopping saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metgan_dist.recipe import Recipe
from metgan_dist.recipe.tuning import Range
from metgan_dist.tuning.ledger import TrialRecord
from metgan_dist.tuning.space import Space, applied
from metgan_dist.tuning.trial import Objective

# fANOVA fits a forest to the trials: of fewer it makes nothing.
LEAST_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class Findings:
    """A sweep's trials; `total` is the images of a whole one. Only whole trials are compared: at equal budget."""

    recipe: Recipe
    space: Space
    objectives: tuple[Objective, ...]
    records: Sequence[TrialRecord]
    total: int

    @property
    def whole(self) -> list[TrialRecord]:
        """Trials that ran to their end and have all scores."""
        return [record for record in self.records if record.outcome == "whole" and self.scored(record)]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Whole trials, the best first; with two objectives, those of the front first, the most balanced leading."""
        if len(self.objectives) == 1:
            return sorted(self.whole, key=lambda record: self._costs(record)[0])
        front, distances = self._undominated(), self._distances()
        return sorted(self.whole, key=lambda record: (record.name not in front, distances[record.name]))

    @property
    def front(self) -> list[TrialRecord]:
        """Whole trials that no other whole one beats in both objectives, in the order of `ranked`."""
        front = self._undominated()
        return [record for record in self.ranked if record.name in front]

    @property
    def own(self) -> TrialRecord | None:
        """The trial with the recipe's own values."""
        return next((record for record in self.records if record.is_own), None)

    @property
    def trade(self) -> Findings:
        """The same trials by two scores: what the weights trade is drawn and shown for searches for one score, too."""
        if len(self.objectives) == 2:
            return self
        first = self.objectives[0]
        other = Objective("mae", "min") if first.name == "label_fidelity" else Objective("label_fidelity", "max")
        return replace(self, objectives=(first, other))

    @property
    def images(self) -> int:
        """That all trials processed."""
        return sum(record.processed for record in self.records)

    @property
    def images_in_full(self) -> int:
        """That they would have processed, each to its end."""
        return self.total * len(self.records)

    @property
    def ratio(self) -> float:
        """Of the two."""
        return self.images / self.images_in_full

    @property
    def seconds(self) -> float:
        """Of training, of all trials."""
        return sum(record.seconds for record in self.records)

    @property
    def seconds_in_full(self) -> float:
        """Of training, had each trial gone on to its end at the pace that it had, or else that of all."""
        # By a trial's own pace: widths and backbones in a space make trials of different cost.
        paces = {r.name: r.seconds / r.images for r in self.records if r.seconds and r.images}
        mean = sum(paces.values()) / max(1, len(paces))
        return sum(self.total * paces.get(record.name, mean) for record in self.records)

    def scored(self, record: TrialRecord) -> bool:
        """Whether a trial has all the scores that count."""
        return all(record.score(objective) is not None for objective in self.objectives)

    def values(self, record: TrialRecord) -> dict[str, float]:
        """A trial's scores, those of the trade included, where it has them."""
        objectives = dict.fromkeys((*self.objectives, *self.trade.objectives))
        return {one.name: score for one in objectives if (score := record.score(one)) is not None}

    def importance(self, objective: Objective) -> dict[str, float]:
        """Fraction of the score's variation that each field explains (fANOVA); empty where there are too few trials.

        Stopped trials count with their last score, as the search saw them.
        """
        import optuna  # takes a second, and is needed for nothing else here

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        for record in self.records:
            score = record.score(objective)
            if score is not None:
                domains = {field: _distribution(values) for field, values in self.space.items()}
                study.add_trial(optuna.trial.create_trial(params=record.point, distributions=domains, value=score))
        if len(study.trials) < LEAST_FOR_IMPORTANCE or len({trial.value for trial in study.trials}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.recipe.tuning.seed)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))

    def best_recipe(self, record: TrialRecord) -> Recipe:
        """The sweep's recipe, as long as it was, with a trial's values, to be run under a name of its own."""
        recipe = applied(self.recipe, record.point)
        tracking = recipe.tracking.model_copy(update={"run": None, "parent": None})
        return recipe.model_copy(update={"tracking": tracking})

    def _costs(self, record: TrialRecord) -> list[float]:
        """Scores as numbers that are better when they are smaller."""
        return [(1 if one.mode == "min" else -1) * (record.score(one) or 0.0) for one in self.objectives]

    def _undominated(self) -> set[str]:
        costs = {record.name: self._costs(record) for record in self.whole}
        return {name for name, mine in costs.items() if not any(_beats(others, mine) for others in costs.values())}

    def _distances(self) -> Mapping[str, float]:
        """How far each whole trial is from the best of both scores, which reach from 0 to 1 over the trials."""
        costs = {record.name: self._costs(record) for record in self.whole}
        columns = list(zip(*costs.values(), strict=True))
        # Scores have scales of their own: without spans, the one with the larger numbers would decide.
        spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]
        return {
            # Squares are enough where only the order counts.
            name: sum(((cost - low) / span) ** 2 for cost, (low, span) in zip(mine, spans, strict=True))
            for name, mine in costs.items()
        }


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def _distribution(values: Range | list[Any]) -> Any:
    import optuna

    if isinstance(values, Range):
        return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.CategoricalDistribution(values)

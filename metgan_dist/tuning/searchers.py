"""Ray Tune's searchers, made to go on from whatever the death of a driver has left of their states.

Tune writes the trials, the state of the searcher and those of callbacks as files of their own, and copies them to the
run's folder one by one while it goes on. A driver that is killed meanwhile leaves trials that its searcher has not
heard of, or a searcher that has suggested what no trial holds. What Tune will run again are the trials, so these say
how it was: `take_up` tells the searcher of them, before it is asked for anything.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.utils import flatten_dict


class Searcher(Protocol):
    """What draws the values of trials."""

    def take_up(self, trials: Sequence[Trial]) -> None:
        """Go on after `trials`, which are all that there are, and those of them that have ended."""
        ...


def count_of(trial: Trial) -> int:
    """How many trials its searcher had made, which Tune puts before the values in the trial's tag."""
    return int(str(trial.experiment_tag).partition("_")[0])


def _live(trials: Sequence[Trial]) -> set[str]:
    return {trial.trial_id for trial in trials if not trial.is_finished()}


class Drawn(BasicVariantGenerator):
    """Random search. All values follow from its seed: it keeps its beginning, and draws again what has been drawn."""

    _taken_up = False
    _beginning: dict[str, Any] | None = None

    def add_configurations(self, experiments: Any) -> None:
        """Tune's hook of a sweep that begins."""
        super().add_configurations(experiments)
        self._beginning = copy.deepcopy(super().get_state())

    def get_state(self) -> Any:
        """Tune's hook: what is kept."""
        return self._beginning or super().get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Tune's hook. A cluster may have room for more or fewer trials at once than the one before."""
        super().set_state({**copy.deepcopy(state), "max_concurrent": self.max_concurrent})
        self._beginning = state

    def take_up(self, trials: Sequence[Trial]) -> None:
        """Draw as often as was drawn for `trials`."""
        self._taken_up = True
        for _ in range(len(trials) - self._iterators[0].counter):
            self._live_trials = set()  # so that it has room for one more
            self.next_trial()
        self._live_trials = _live(trials)

    def is_finished(self) -> bool:
        """Whether there is nothing more to draw, which is not known before `take_up`."""
        return self._taken_up and bool(super().is_finished())


class Suggested(SearchGenerator):
    """Suggestions of Optuna, of which `at_once` are tried at a time; takes the options of Tune's OptunaSearch."""

    _taken_up = False

    def __init__(self, at_once: int, **options: Any) -> None:
        self._optuna = _Optuna(**options)
        super().__init__(_Limited(self._optuna, max_concurrent=at_once))

    def take_up(self, trials: Sequence[Trial]) -> None:
        """Count `trials`, and tell Optuna of those that it does not know."""
        self._taken_up = True
        self._counter = len(trials)
        self.searcher.live_trials = _live(trials)
        self.searcher.num_unfinished_live_trials = len(self.searcher.live_trials)
        self._optuna.take_up(trials)

    def is_finished(self) -> bool:
        """Whether there is nothing more to suggest, which is not known before `take_up`."""
        return self._taken_up and bool(super().is_finished())


class _Limited(ConcurrencyLimiter):
    def set_state(self, state: dict[str, Any]) -> None:
        # A cluster may have room for more or fewer trials at once than the one before.
        super().set_state({**state, "max_concurrent": self.max_concurrent})


class _Optuna(OptunaSearch):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unclaimed: list[Any] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._unclaimed:
            self._ot_trials[trial_id] = self._unclaimed.pop(0)
        suggested: dict[str, Any] | None = super().suggest(trial_id)  # of a trial that it knows: the same once more
        return suggested

    def take_up(self, trials: Sequence[Trial]) -> None:
        for trial in sorted(trials, key=count_of):
            name = trial.trial_id
            if name not in self._ot_trials or (self._has_failed(name) and not trial.is_finished()):
                self._ot_trials[name] = self._suggested_again({field: trial.config[field] for field in self._space})
                self._completed_trials.discard(name)
            if trial.is_finished() and name not in self._completed_trials:
                error = trial.status == Trial.ERROR
                self.on_trial_complete(name, None if error else flatten_dict(trial.last_result), error)
        # What no trial holds may have begun to train under the number of the next one, which gets its values.
        held = {trial.trial_id for trial in trials} | self._completed_trials
        self._unclaimed += [self._ot_trials.pop(name) for name in list(self._ot_trials) if name not in held]

    def _has_failed(self, name: str) -> bool:
        from optuna.trial import TrialState

        ended = name in self._completed_trials
        return ended and self._ot_study.trials[self._ot_trials[name].number].state == TrialState.FAIL

    def _suggested_again(self, values: Mapping[str, Any]) -> Any:
        """Optuna's trial of these values."""
        from optuna.trial import TrialState

        # A sampler that has not come as far as the one that suggested them would draw them next: now, and never again.
        trial = self._ot_study.ask(fixed_distributions=self._space)
        if trial.params != values:
            self._ot_study.tell(trial, state=TrialState.FAIL)
            self._ot_study.enqueue_trial(dict(values))
            trial = self._ot_study.ask(fixed_distributions=self._space)
        return trial

"""What tune_loss_weights.py does: prepare what trials share, let Ray Tune run them, say what came of it."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial

from metgan_dist.cluster.joining import is_local, plan_for_cluster
from metgan_dist.cluster.progress import printed_queue
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.main_job import Prepared, assign, check_tiles, check_training, prepare_training
from metgan_dist.methods import method_class, needs_segmentor
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.tuning import Score
from metgan_dist.runs.child_runs import is_finished
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import COLUMNS
from metgan_dist.scores.scored import IMAGE_SCORES
from metgan_dist.storage import filesystem, join
from metgan_dist.tasks import task_of
from metgan_dist.trained import find_stages, find_start
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.launch import ray_storage
from metgan_dist.training.review import open_desk
from metgan_dist.training.schedule import Length
from metgan_dist.tuning.child_run import JOB
from metgan_dist.tuning.findings import Findings
from metgan_dist.tuning.ledger import Ledger, TrialRecord
from metgan_dist.tuning.plan import Node, plan_trials
from metgan_dist.tuning.report import report_sweep
from metgan_dist.tuning.search import build_scheduler, build_searcher, check_search, trial_name
from metgan_dist.tuning.space import Space, applied, described, search_space, tune_domains
from metgan_dist.tuning.trial import Objective, Sweep
from metgan_dist.tuning.trial import Trial as Trainable
from metgan_dist.volumes.dataset import as_described

# Whoever drives trials sits where nothing is taken away: on the cluster's head, or nodes that offer this.
DRIVERS, HEAD, ONE_DRIVER = "TRAIN_DRIVER", "node:__internal_head__", 0.001
# What Tune writes down, in files of its own which are copied to the run's folder one by one.
_STATES = {
    "all": ("experiment_state", "callback-states"),
    "random": ("basic-variant-state",),
    "optuna": ("search_gen_state", "searcher-state"),
}
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends this job as it ends any other; Tune would go on to say that all is well.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A killed sweep goes on from its last record: at most this many seconds of decisions are made again.
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "RAY_AIR_NEW_OUTPUT": "0",  # which would announce itself even when it is to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def objectives_of(recipe: Recipe) -> tuple[Objective, ...]:
    """The scores to improve: as the recipe says, else the method's own criterion, with label fidelity for pareto.

    UserError where the method is not validated by them.
    """
    method = method_class(recipe.method.name)
    own = method.criterion(recipe)[0]
    if own not in get_args(Score):
        raise UserError(f"method.name: {recipe.method.name} makes no images; sweeps are over methods that do")
    image = "mae" if own == "label_fidelity" else own
    names = recipe.tuning.objectives or ((image, "label_fidelity") if recipe.tuning.search == "pareto" else (own,))
    if "cycle_mae" in names and "alpha2" not in method.loss_weights(recipe):
        raise UserError(f"tuning.objectives: cycle_mae: {recipe.method.name} has no cycle; use mae or label_fidelity")
    return tuple(Objective(name, COLUMNS[name].better) for name in names)


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep that can be carried out; str() says in lines what it searches, and how where that is known already."""

    space: Space
    objectives: tuple[Objective, ...]
    layout: tuple[int, ResourcePlan] | None = None

    @staticmethod
    def planned(command: Command) -> PlannedSweep:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe = command.recipe
        check_search(recipe)
        if recipe.scaling.in_process:
            raise UserError("scaling.workers: 0: a sweep's trials train in processes of their own; give 1 or more")
        space, objectives, layout = search_space(recipe), objectives_of(recipe), None
        if ray.is_initialized():
            layout = _plan_here(recipe)
        elif is_local(recipe.scaling):
            layout = plan_trials(recipe, [Node(os.cpu_count() or 1, torch.cuda.device_count())])
        if recipe.tracking.run:
            is_finished(JOB, recipe)  # refuses a name that belongs to a sweep over another space
        return PlannedSweep(space, objectives, layout)

    def __str__(self) -> str:
        goals = " and ".join(f"{one.name} ({one.mode})" for one in self.objectives)
        lines = [f"search: {described(self.space)}", f"objective: validation {goals}"]
        if self.layout is not None:
            lines.append(f"trials at once: {self.layout[0]}, each of {self.layout[1]}")
        return "\n".join(lines)

    def check(self, recipe: Recipe) -> None:
        """UserError for what keeps a trial from being trained or compared on the recipe's data, before any work."""
        check_training(recipe, self._variants(recipe)[1:])
        names = [one.name for one in self.objectives]
        paired = next((name for name in names if name in IMAGE_SCORES), None)
        domains = as_described(recipe.data).domains
        if domains and paired is not None:
            raise UserError(
                f"tuning.objectives: {paired} compares with the real image of the same place, which images of two "
                "domains do not have; use cycle_mae or label_fidelity"
            )
        if domains and "label_fidelity" in names:
            check_tiles(recipe, [("anatomy", "label"), ("tumour", "label")])

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; raises TrainingStopped at its end when no trial came to anything."""
        at_once, plan = layout = _plan_here(opened.recipe)
        say(str(replace(self, layout=layout)))
        prepared = prepare_training(opened, self._needs_segmentor(opened.recipe))
        task = task_of(method_class(opened.recipe.method.name), prepared.tiles)
        if not len(task.rows("val")):
            raise UserError("tiles.val: no tiles to validate on, by which trials are compared; hold some out")
        recipe, length, every = _trial_recipe(opened.recipe, task.drawn(opened.recipe).epoch)
        say(f"trials: {recipe.tuning.trials} of {length.total} images, validated every {every}")
        base = _assignment(opened, prepared, recipe, plan)
        with opened.result.phase("trials"), printed_queue(say) as queue:
            records = self._run(replace(base, queue=queue), opened.run.name, length, every, at_once)
        findings = Findings(opened.recipe, self.space, self.objectives, records, length.total)
        report_sweep(opened, findings)
        if not findings.ranked:
            reasons = "; ".join(f"{record.name} ({record.reason})" for record in records)
            raise TrainingStopped(f"no trial came to anything: {reasons}")

    def _needs_segmentor(self, recipe: Recipe) -> bool:
        """Whether any trial needs one: its method, or its weight of the segmentation loss, may be varied."""
        return any(needs_segmentor(one) for one in self._variants(recipe))

    def _variants(self, recipe: Recipe) -> list[Recipe]:
        """The recipe, and with each field of the space at each of its values, or at its highest."""
        ends = {field: values if isinstance(values, list) else [values.high] for field, values in self.space.items()}
        return [recipe, *(applied(recipe, {field: value}) for field in ends for value in ends[field])]

    def _run(self, base: Assignment, name: str, length: Length, every: int, at_once: int) -> list[TrialRecord]:
        """All trials, or those that an earlier start of the sweep left."""
        recipe = base.recipe
        scheduler = build_scheduler(recipe, self.space, self.objectives[0], length.total, every)
        searcher = build_searcher(recipe, self.space, self.objectives, at_once)
        desk = open_desk()
        ledger = Ledger(base, self.objectives, searcher, scheduler, length.total, desk, say)
        sweep = Sweep(name, base, self.objectives, desk)
        naming = functools.partial(trial_name, 0 if recipe.tuning.search == "random" else 1)
        with _tune_settings(), ledger:
            analysis = tune.run(
                tune.with_resources(tune.with_parameters(Trainable, sweep=sweep), _driver()),
                name="tune",
                config=tune_domains(self.space),
                num_samples=recipe.tuning.trials,
                search_alg=searcher,
                scheduler=scheduler,
                stop={"low_reports": recipe.tuning.collapse_reports},
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=False),
                max_failures=recipe.training.max_failures,
                callbacks=[ledger],
                trial_name_creator=naming,
                trial_dirname_creator=naming,
                resume="AUTO+ERRORED" if _begun(base) else None,
                raise_on_failed_trial=False,
                verbose=0,
                **ray_storage(base.run_folder, base.options),
            )
        unfinished = [str(trial) for trial in analysis.trials if trial.status not in (Trial.TERMINATED, Trial.ERROR)]
        if unfinished:
            raise TrainingStopped(f"Ray Tune ended before its trials: {', '.join(unfinished)}; start the sweep again")
        return sorted(ledger.records.values(), key=lambda record: record.name)


def _plan_here(recipe: Recipe) -> tuple[int, ResourcePlan]:
    scaling, asked = recipe.scaling, recipe.tuning.concurrent
    if scaling.grow and asked != "auto":  # an autoscaling cluster is asked for what all of them take
        plan_for_cluster(scaling.model_copy(update={"workers": scaling.processes * asked}), say)
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return plan_trials(recipe, [Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in have])


def _trial_recipe(recipe: Recipe, tiles: int) -> tuple[Recipe, Length, int]:
    """The recipe of a whole trial, its length, and the images between its reports."""
    tuning, training = recipe.tuning, recipe.training
    stages = method_class(recipe.method.name).stages(recipe)
    if tuning.images is not None:
        step = Length.of(training, tiles, recipe.scaling.processes).step
        steps = max(1, tuning.images // step)
        training = training.model_copy(update={"max_steps": min(steps, training.max_steps or steps)})
    length = Length.of(training, tiles, recipe.scaling.processes, stages=stages)
    every = -(-length.total // tuning.reports)
    training = training.model_copy(update={"validate_every": every, "checkpoint_every": every})
    return recipe.model_copy(update={"training": training}), length, every


def _assignment(opened: OpenRun, prepared: Prepared, recipe: Recipe, plan: ResourcePlan) -> Assignment:
    return replace(
        assign(opened, prepared.tiles, "trial", recipe),
        plan=plan,
        segmentor=prepared.segmentor,
        judge=prepared.judge,
        judge_source=prepared.judge_source,
        weights_from=opened.start(lambda: find_start(opened.recipe)),
        stages_from=opened.stages(lambda: find_stages(opened.recipe)),
    )


def _begun(base: Assignment) -> bool:
    """Whether Tune has left a state to go on from; one that was only half copied when the driver died is none.

    Trainings go on in any case: their names follow from the trials.
    """
    fs, path = filesystem(join(base.run_folder, "tune"), base.options)
    of_search = _STATES["random" if base.recipe.tuning.search == "random" else "optuna"]
    return all(fs.glob(f"{path}/{kind}-*") for kind in (*_STATES["all"], *of_search))


def _driver() -> Mapping[str, Any]:
    """What a trial's own actor takes: it starts the training and waits."""
    return {DRIVERS if DRIVERS in ray.cluster_resources() else HEAD: ONE_DRIVER}


@contextmanager
def _tune_settings() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    try:
        with warnings.catch_warnings():
            # A trial's actor is not used again for another: starting its training takes far longer than it does.
            warnings.filterwarnings("ignore", "Consider boosting PBT")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

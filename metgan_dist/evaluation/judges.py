"""Who finds labels in the images of a comparison: the judges that are named, or those that the runs have themselves."""

from __future__ import annotations

from collections.abc import Sequence

from metgan_dist.errors import UserError
from metgan_dist.evaluation.runs import TrainedRun
from metgan_dist.main_job import check_source_judge
from metgan_dist.recipe import Recipe
from metgan_dist.storage import Options
from metgan_dist.tasks import Task
from metgan_dist.tasks.segmentation import JUDGE_SOURCE
from metgan_dist.tasks.shapes import judges_of
from metgan_dist.tasks.translation import FIDELITY
from metgan_dist.trained import check_segmentor, checkpoint_digest

JUDGE = "judge"
DOMAINS = {JUDGE: "target", JUDGE_SOURCE: "source"}


def judges_for(task: Task, names: Sequence[str], runs: Sequence[TrainedRun], recipe: Recipe) -> dict[str, str]:
    """Checkpoints of the judges that the scores `names` need, by role; label fidelity does without where there is none.

    Those that the recipe names, else the runs' own: of label fidelity the first run's, of scores of whole volumes the
    one that all of them share. UserError where these differ, where a run has none, and for a judge that is named and
    not needed.
    """
    whole = {column.name for column in task.whole_columns}
    shared = {role: name for name in names if name in whole for role in sorted(judges_of(name))}
    judges = {}
    for role in DOMAINS:
        given = getattr(recipe.method, role)
        wanted = role in shared or (role == JUDGE and FIDELITY in names)
        if given and not wanted:
            raise UserError(f"method.{role}: no score of the table ({', '.join(names)}) is by it; leave it out")
        uri = given or (_shared(role, shared[role], runs, recipe.storage.options) if role in shared else None)
        if wanted and (uri := uri or runs[0].judge(role)) is not None:
            judges[role] = _checked(role, uri, runs[0].recipe)
    return judges


def _shared(role: str, score: str, runs: Sequence[TrainedRun], options: Options) -> str:
    """The judge that all runs have, known by its SHA-256; UserError where one has none, or another one."""
    own = [run.judge(role) for run in runs]
    for run, uri in zip(runs, own, strict=True):
        if uri is None:
            raise UserError(
                f"scores.names: {score} needs a judge of the {DOMAINS[role]}, and {run.name} has none; name one in "
                f"method.{role}"
            )
    first = str(own[0])
    for run, uri in zip(runs, own, strict=True):
        if uri != first and checkpoint_digest(str(uri), options) != checkpoint_digest(first, options):
            raise UserError(
                f"scores.names: {score}: the judges of {runs[0].name} and {run.name} differ ({first}, {uri}), and runs "
                f"are compared by one; name it in method.{role}"
            )
    return first


def _checked(role: str, uri: str, recipe: Recipe) -> str:
    return check_source_judge(uri, recipe) if role == JUDGE_SOURCE else check_segmentor(f"method.{role}", uri, recipe)

"""What the jobs of a study's steps would refuse, as far as that shows before anything is made that they take."""

from __future__ import annotations

from collections.abc import Mapping

from metgan_dist.errors import UserError
from metgan_dist.main_job import check_tiles
from metgan_dist.methods import check_methods
from metgan_dist.methods.pyramid import check_start
from metgan_dist.methods.singan import SinGAN
from metgan_dist.recipe import Data, Recipe, VolumeEntry, class_names
from metgan_dist.runs.open_run import resolved
from metgan_dist.studies.steps import Step
from metgan_dist.studies.study import Study
from metgan_dist.synthesis.brain_plan import brains_of
from metgan_dist.training.choice import Choice
from metgan_dist.training.schedule import check_stages
from metgan_dist.volumes.dataset import as_described

UNKNOWN = VolumeEntry(id="unknown", path="unknown")  # a volume that is still to be made


def is_cut(step: Step) -> bool:
    """Whether a step cuts tiles from the study's own data set."""
    return step.job == "make_tiles" and not step.takes


def check_step(study: Study, step: Step, recipes: Mapping[str, Recipe]) -> None:
    """What the job of a step would refuse, as far as that shows before what it takes is there."""
    try:
        recipe = resolved(_on_own_data(study, step, recipes[step.name]))
        if is_cut(step):
            check_tiles(recipe)
        if step.job == "train_metgan":
            check_methods(recipe, recipe.tiles.shape)
            Choice.of(recipe)
            check_stages(recipe)
        if step.job == "insert_tumours":
            _check_insertion(recipe, recipes.get(str(step.takes.get("insertion.model"))))
        if "synthesis.masks" in step.takes:
            _check_cases(study, recipes, recipe.data)
    except UserError as error:
        raise UserError(f"--study: step {step.name}: {error}") from error


def _on_own_data(study: Study, step: Step, recipe: Recipe) -> Recipe:
    """A step's recipe without the study's domains, where it is of tiles that are cut from what other steps make."""
    cut = next((one for one in study.steps if one.name == step.data_from), None)
    if cut is None or cut.job != "make_tiles" or is_cut(cut):
        return recipe
    return recipe.model_copy(update={"data": Data(volumes=[UNKNOWN], classes=recipe.data.classes)})


def _check_cases(study: Study, recipes: Mapping[str, Recipe], data: Data) -> None:
    """UserError without brains to lay lesions into, or with fewer patients with a lesion than a row asks for."""
    patients = {entry.patient or entry.id for entry in brains_of(data)[1]}
    for row in study.rows:
        cases = recipes[row.name].segmentation.cases or 0
        if cases > len(patients):
            raise UserError(
                f"row {row.name} asks for {cases} clinical cases (segmentation.cases), and the data set has "
                f"{len(patients)} patients with a lesion that may be trained on; leave it out (--rows), or give more "
                "volumes"
            )


def _check_insertion(recipe: Recipe, singan: Recipe | None) -> None:
    """UserError for a class that the labels do not have, and a scale that the SinGAN of a step will not have."""
    settings, labels = recipe.insertion, as_described(recipe.data, recipe.storage.options).labels
    names = class_names(labels)[1:] if isinstance(labels, dict) else ()
    wanted = settings.tumour
    if wanted is not None and names and wanted not in names and not wanted.isdigit():
        raise UserError(f"insertion.tumour: {wanted!r} is no class of the labels, which have {', '.join(names)}")
    if singan is not None and settings.start_scale is not None:
        try:
            check_start(settings.start_scale, len(SinGAN.stages(singan)))
        except UserError as error:
            raise UserError(f"insertion.start_scale: {error}") from error

"""The rooms of the package lie on floors and no import goes up: docs/architecture.md, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From top to bottom. A room imports from itself and from floors below its own, so rooms of one floor are strangers.
FLOORS = (
    ("jobs",),
    ("studies", "export"),
    ("tuning", "segmentation", "synthesis"),
    ("evaluation",),
    ("main_job", "lineage", "inspection"),
    ("runs",),
    ("training",),
    ("trained",),
    ("tasks",),
    ("tiles", "tracking"),
    ("methods", "volumes", "cluster", "scores"),
    ("networks", "recipe"),
    ("storage", "weights", "figures"),
    ("errors", "code_version"),
)
HEIGHT = {room: -depth for depth, rooms in enumerate(FLOORS) for room in rooms}

# Who may import what; `torch` stands for the packages that bring it along, too.
OUTSIDERS = {"mlflow": "mlflow", "ray": "ray"} | dict.fromkeys(
    ("torch", "torchvision", "monai", "lpips", "pytorch_fid"), "torch"
)
MAY_KNOW = {
    "mlflow": ("tracking/*",),
    "ray": (
        "cluster/*",
        "evaluation/scoring.py",
        "evaluation/segmented_volumes.py",
        "main_job.py",
        "runs/child_runs.py",
        "runs/open_run.py",
        "segmentation/scoring.py",
        "synthesis/brains.py",
        "synthesis/generate.py",
        "synthesis/insertion.py",
        "synthesis/labelled_volumes.py",
        "synthesis/masks.py",
        "synthesis/one_image.py",
        "synthesis/passes.py",
        "synthesis/summary.py",
        "synthesis/synthesis.py",
        "synthesis/translation.py",
        "synthesis/whole_volume.py",
        "tiles/pipeline.py",
        "tiles/stream.py",
        "training/assignment.py",
        "training/launch.py",
        "training/preemption.py",
        "training/process_group.py",
        "training/review.py",
        "training/team.py",
        "tuning/*",
    ),
    "torch": (
        "networks/*",
        "methods/*",
        "scores/*",
        "tasks/*",
        "training/*",
        "trained.py",
        "weights.py",
        "main_job.py",
        "evaluation/scoring.py",
        "evaluation/segmented_volumes.py",
        "runs/open_run.py",
        "segmentation/cells.py",
        "synthesis/gate.py",
        "synthesis/labelling.py",
        "synthesis/model.py",
        "synthesis/replica.py",
        "tiles/stream.py",
        "tuning/sweep.py",
    ),
}


@dataclass(frozen=True)
class Import:
    """One name that a file imports, wherever in the file; `typing_only` where only a type checker sees it."""

    file: str
    name: str
    line: int
    typing_only: bool

    def breaks(self, rule: str) -> str:
        return f"{self.file}:{self.line} imports {self.name}: {rule}"


def package_sources() -> dict[str, str]:
    """Text of each Python file of the package and the jobs, by its path from the root of the repository."""
    files = [file for folder in ("metgan_dist", "jobs") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


def dotted(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def found_in(file: str, source: str) -> Iterator[Import]:
    tree = ast.parse(source, file)
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    hidden = {node for guard in guards for statement in guard.body for node in ast.walk(statement)}
    folder = file.rpartition("/")[0].replace("/", ".")
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(module=module, names=aliases, level=level):
                origin = resolve_name("." * level + (module or ""), folder)
                names = [f"{origin}.{alias.name}" for alias in aliases]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names = [name]
            case _:
                continue
        for name in names:
            yield Import(file, name, node.lineno, node in hidden)


@cache  # most files are the same in every test
def imports_of(file: str, source: str) -> tuple[Import, ...]:
    return tuple(found_in(file, source))


def all_imports(sources: dict[str, str]) -> list[Import]:
    return [found for file, source in sources.items() for found in imports_of(file, source)]


def room(name: str) -> str:
    """The room of a dotted name; the package itself has none."""
    first, *rest = name.split(".")
    return rest[0] if first == "metgan_dist" and rest else first


def strangers(sources: dict[str, str]) -> list[str]:
    """Files that lie in no room of the table, and rooms of the table in which no file lies."""
    rooms = {file: room(dotted(file)) for file in sources if file != "metgan_dist/__init__.py"}
    lost = [
        f"{file}: room {name!r} has no floor: enter it in FLOORS of tests/test_architecture.py, and in "
        "docs/architecture.md, above all that it imports"
        for file, name in rooms.items()
        if name not in HEIGHT
    ]
    return lost + [f"FLOORS: no file lies in room {name!r}: drop it" for name in HEIGHT if name not in rooms.values()]


def upward(sources: dict[str, str]) -> list[str]:
    """Imports from the room's own floor or above it."""
    job_names = {Path(file).stem for file in sources if file.startswith("jobs/")}
    broken = []
    for found in all_imports(sources):
        first = found.name.split(".")[0]
        if first in {"jobs"} | job_names:
            broken.append(found.breaks("nothing imports jobs"))
        if first != "metgan_dist" or found.name == "metgan_dist.__version__":
            continue
        here, there = room(dotted(found.file)), room(found.name)
        if here == "metgan_dist":
            if there != "trained":
                broken.append(found.breaks("the package itself hands out names of trained alone"))
        elif there not in HEIGHT:
            broken.append(found.breaks("only __version__ is the package's own; take other names from their rooms"))
        elif here != there and HEIGHT.get(here, 0) <= HEIGHT[there]:
            broken.append(found.breaks(f"{here} may import only from floors below its own, {there} is on none of them"))
    return broken


def indiscreet(sources: dict[str, str]) -> list[str]:
    """Files that know MLflow, Ray or torch and may not, and entries of the table that say too much."""
    broken, needed = [], set()
    for found in all_imports(sources):
        outsider = OUTSIDERS.get(found.name.split(".")[0])
        if outsider is None:
            continue
        allowed = [p for p in MAY_KNOW[outsider] if fnmatch(found.file, f"metgan_dist/{p}")]
        needed.update((outsider, pattern) for pattern in allowed)
        if not allowed:
            broken.append(found.breaks(f"{outsider} is known only by {', '.join(MAY_KNOW[outsider])}"))
    stale = [(outsider, p) for outsider, patterns in MAY_KNOW.items() for p in patterns if (outsider, p) not in needed]
    return broken + [f"MAY_KNOW: metgan_dist/{pattern} imports no {outsider}: drop it" for outsider, pattern in stale]


def circle(sources: dict[str, str]) -> list[str]:
    """The files of a circle of imports, in order; empty where there is none."""
    files = {dotted(file): file for file in sources}
    graph: dict[str, set[str]] = {file: set() for file in sources}
    for found in all_imports(sources):
        target = files.get(found.name) or files.get(found.name.rpartition(".")[0])
        if target and target != found.file and not found.typing_only and found.file != "metgan_dist/__init__.py":
            graph[found.file].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists a circle against the direction of its imports
    return []


@pytest.fixture(scope="module")
def sources():
    return package_sources()


def test_every_file_lies_in_a_room_with_a_floor(sources):
    assert not (lost := strangers(sources)), "\n".join(lost)


def test_no_import_goes_up(sources):
    assert not (broken := upward(sources)), "\n".join(broken)


def test_mlflow_ray_and_torch_are_known_only_where_they_belong(sources):
    assert not (broken := indiscreet(sources)), "\n".join(broken)


def test_no_files_import_each_other_in_a_circle(sources):
    assert not (files := circle(sources)), f"{' imports '.join(files)}: imports must not go in a circle"


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("volumes/open.py", "import metgan_dist.tiles.cut", "volumes may import only from floors below its own"),
        ("volumes/open.py", "def f():\n    from metgan_dist.runs import job", "imports metgan_dist.runs.job: volumes"),
        ("volumes/open.py", "if TYPE_CHECKING:\n    from metgan_dist.trained import T", "trained.T: volumes may"),
        ("volumes/open.py", "from ..tiles import cut", "imports metgan_dist.tiles.cut: volumes may"),
        ("tuning/plan.py", "from metgan_dist.segmentation import folds", "segmentation is on none of them"),
        ("errors.py", "from metgan_dist import code_version", "errors may import only from floors below its own"),
        ("volumes/open.py", "from jobs.evaluate import work", "nothing imports jobs"),
        ("volumes/open.py", "import evaluate", "nothing imports jobs"),
        ("volumes/open.py", "from metgan_dist import load_generator", "take other names from their rooms"),
        ("__init__.py", "from metgan_dist.methods import METHODS", "hands out names of trained alone"),
    ],
)
def test_an_import_that_goes_up_is_named_with_file_and_rule(file, line, message, sources):
    (broken,) = upward(sources | {f"metgan_dist/{file}": line})
    assert broken.startswith(f"metgan_dist/{file}:")
    assert message in broken


@pytest.mark.parametrize(
    ("file", "line", "outsider"),
    [
        ("scores/image.py", "import mlflow.entities", "mlflow"),
        ("training/logs.py", "def f():\n    from mlflow import MlflowClient", "mlflow"),
        ("volumes/axes.py", "from ray import data", "ray"),
        ("methods/rows.py", "if TYPE_CHECKING:\n    import ray", "ray"),
        ("tuning/plan.py", "import importlib\nimportlib.import_module('torch')", "torch"),
        ("recipe/tree.py", "import torchvision", "torch"),
    ],
)
def test_an_indiscreet_file_is_named_with_the_rule(file, line, outsider, sources):
    broken = indiscreet(sources | {f"metgan_dist/{file}": line})
    assert any(m.startswith(f"metgan_dist/{file}:") and f"{outsider} is known only by" in m for m in broken), broken


def test_a_table_that_says_too_much_is_told(sources):
    assert "MAY_KNOW: metgan_dist/main_job.py imports no ray: drop it" in indiscreet(
        sources | {"metgan_dist/main_job.py": "import torch"}
    )
    assert strangers({"metgan_dist/errors.py": ""})[-1] == "FLOORS: no file lies in room 'code_version': drop it"


def test_a_new_room_must_be_given_a_floor(sources):
    (lost,) = strangers(sources | {"metgan_dist/attic/trunk.py": ""})
    assert lost.startswith("metgan_dist/attic/trunk.py: room 'attic' has no floor: enter it in FLOORS")


def test_a_circle_is_told_in_order_and_types_make_none():
    files = {
        "metgan_dist/tiles/cut.py": "from metgan_dist.tiles.geometry import a",
        "metgan_dist/tiles/geometry.py": "from metgan_dist.tiles import splits",
        "metgan_dist/tiles/splits.py": "def f():\n    import metgan_dist.tiles.cut",
    }
    told = circle(files)
    start = told.index("metgan_dist/tiles/cut.py")
    assert [*told[start:-1], *told[:start]] == list(files)
    files["metgan_dist/tiles/splits.py"] = "if TYPE_CHECKING:\n    import metgan_dist.tiles.cut"
    assert circle(files) == []

"""A run without MLflow, for synthesis that is carried out in the test's process."""

from contextlib import contextmanager
from dataclasses import dataclass, field

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.runs.job import Result
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.runs.run_folder import open_run


@dataclass
class Untracked(OpenRun):
    """What would be recorded of data sets is in `recorded`: context, rows and digest of each."""

    recorded: list = field(default_factory=list)

    @contextmanager
    def log(self):
        yield self

    def content(self, content, name):
        assert content.startswith(b"\x89PNG")

    def dataset(self, name, uri, digest, context, rows):
        self.recorded.append((context, rows, digest))


def untracked(recipe):
    """The run of `synthesize` that the recipe names, on one CPU of four."""
    return Untracked(recipe, open_run("synthesize", recipe, "test"), ResourcePlan(1, 1, 0, 1, 4, 0), "", Result())

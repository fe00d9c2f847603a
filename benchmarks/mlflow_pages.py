"""A run with its children in the MLflow UI, looked at with a real browser as a person does, and photographed.

    mlflow ui --backend-store-uri sqlite:///runs/mlflow.db
    python benchmarks/mlflow_pages.py --run my-sweep --folder pictures

The run table must show the run with its children, the run's page all of them, every picture among the run's artefacts
must be drawn, and one of the children (`--child`; by default the first with grids) must show its curves and its grids.
Says what it saw; exits with 1 and one line when something is missing. Needs Chromium and `pip install playwright`;
credentials are taken from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Error, Locator, Page, sync_playwright

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tracking
from metgan_dist.tracking import LoggedRun, check_server, find_run, logged_run, nested_runs
from metgan_dist.tracking.server import connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif")
WINDOW = {"width": 1360, "height": 860}
COLOURS = 96  # of a screenshot: enough for text on white and grey pictures, and a third of the bytes

# The UI opens for language models, with an assistant beside it, until it is told otherwise.
SETTINGS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


class Missing(Exception):
    """Something that must be on a page is not; the message says what and where."""


@dataclass(frozen=True)
class Store:
    """What the server says is there, to be compared with what the browser shows."""

    uri: str
    experiment: str
    parent: LoggedRun
    children: list[LoggedRun]

    @classmethod
    def ask(cls, uri: str, experiment: str, name: str) -> Store:
        """UserError when the server does not answer, Missing when it has no such run or the run has no children."""
        check_server(uri)
        run_id = find_run(uri, Tracking(experiment=experiment), name)
        parent = logged_run(uri, run_id) if run_id else None
        if run_id is None or parent is None:
            raise Missing(f"{uri}: no run {name} in experiment {experiment}")
        children = nested_runs(uri, run_id)
        if not children:
            raise Missing(f"{name}: has no child runs")
        return cls(uri, connect(uri).get_run(run_id).info.experiment_id, parent, children)

    def pictures(self, run: LoggedRun, folder: str = "") -> list[str]:
        """The paths of the pictures among a run's artefacts, under `folder`."""
        return sorted(path for path in self._files(run.id, folder) if path.endswith(PICTURES))

    def _files(self, run_id: str, folder: str) -> Iterator[str]:
        for item in connect(self.uri).list_artifacts(run_id, folder or None):
            if item.is_dir:
                yield from self._files(run_id, item.path)
            else:
                yield item.path

    def child(self, name: str | None) -> LoggedRun:
        """The child called `name`, by default the first that has grids."""
        for child in self.children:
            if child.name == name or (name is None and self.pictures(child, "grids")):
                return child
        raise Missing(f"{self.parent.name}: no child run {'with grids' if name is None else name}")


class Visitor:
    """Opens pages of the UI and keeps a picture of each that shows what it must."""

    def __init__(self, browser: Browser, store: Store, folder: Path, seconds: float) -> None:
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
        credentials = {"username": user, "password": password} if user and password else None
        context = browser.new_context(viewport=WINDOW, http_credentials=credentials)  # type: ignore[arg-type]
        context.set_default_timeout(1000 * seconds)
        context.add_init_script(
            "".join(f"localStorage.setItem({name!r}, {value!r});" for name, value in SETTINGS.items())
        )
        self._page: Page = context.new_page()
        self._store, self._folder = store, folder

    def run_table(self) -> None:
        """The table of all runs: the parent, and under it its newest children."""
        self._open("runs")
        parent, newest = (self._row(run) for run in (self._store.parent, self._store.children[-1]))
        self._see(parent, f"the table of runs: run {self._store.parent.name}")
        parent.get_by_role("button").first.click()
        self._see(newest, f"the table of runs: under {self._store.parent.name}, {self._store.children[-1].name}")
        self._keep("runs")

    def _row(self, run: LoggedRun) -> Locator:
        link = self._page.locator(f"a[href$='/runs/{run.id}']")
        return self._page.get_by_role("gridcell").filter(has=link).first

    def parent(self) -> None:
        """The parent's own page, with a link to every child."""
        self._open_run(self._store.parent)
        more = self._page.get_by_role("button", name="Load more")
        links = self._page.locator("a[href*='/runs/']")
        self._see(links.filter(has_text=self._store.children[-1].name).first, f"{self._store.parent.name}: child runs")
        while more.count():
            before = links.count()
            more.first.click()
            self._page.wait_for_function(
                "count => document.querySelectorAll(\"a[href*='/runs/']\").length > count", arg=before
            )
        for child in self._store.children:
            link = self._page.locator(f"a[href*='/runs/{child.id}']").first
            self._see(link, f"{self._store.parent.name}: child run {child.name}")
        self._keep("parent")

    def pictures(self, run: LoggedRun, paths: list[str]) -> None:
        """Every picture, opened among the run's artefacts and drawn."""
        if not paths:
            raise Missing(f"{run.name}: no pictures among its artefacts")
        for path in paths:
            self._open_run(run, f"artifacts/{path}")
            shown = self._page.get_by_alt_text(path, exact=True)
            self._see(shown, f"{run.name}: picture {path}")
            drawn = "picture => picture.decode().then(() => picture.naturalWidth > 0, () => false)"
            if not shown.evaluate(drawn):
                raise Missing(f"{run.name}: picture {path} is broken")
            self._keep(f"{run.name}-{Path(path).with_suffix('')}")

    def curves(self, run: LoggedRun) -> None:
        """The run's charts, of which at least one has a line drawn through several points."""
        self._open_run(run, "model-metrics")
        lines = self._page.locator(".js-plotly-plot .scatterlayer path.js-line[d*='L']")
        self._see(lines.first, f"{run.name}: curves")
        self._keep(f"{run.name}-curves")

    def _open_run(self, run: LoggedRun, rest: str = "") -> None:
        self._open(f"runs/{run.id}/{rest}".rstrip("/"))
        self._see(self._page.get_by_role("heading", name=run.name).first, f"the page of run {run.name}")

    def _open(self, path: str) -> None:
        self._page.goto("about:blank")  # the UI's addresses differ behind the #, which alone loads nothing anew
        self._page.goto(f"{self._store.uri}/#/experiments/{self._store.experiment}/{path}", wait_until="commit")

    def _see(self, thing: Locator, what: str) -> None:
        try:
            thing.wait_for(state="visible")
        except Error as error:
            raise Missing(f"{what}: not on {self._page.url}") from error

    def _keep(self, name: str) -> None:
        self._page.wait_for_timeout(1000)  # for what fades in
        picture = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        path = self._folder / f"mlflow-{re.sub(r'[^A-Za-z0-9-]+', '-', name)}.png"
        picture.quantize(COLOURS).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)


def look(store: Store, browser: Browser, folder: Path, child: str | None, seconds: float) -> None:
    """Visit every page; Missing for the first thing that is not there."""
    visitor, trained = Visitor(browser, store, folder, seconds), store.child(child)
    visitor.run_table()
    visitor.parent()
    visitor.pictures(store.parent, store.pictures(store.parent))
    visitor.curves(trained)
    visitor.pictures(trained, store.pictures(trained, "grids"))
    print(f"{store.parent.name}: {len(store.children)} children, all on the page")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--uri", default="http://127.0.0.1:5000", help="of the MLflow UI")
    parser.add_argument("--experiment", default="metgan")
    parser.add_argument("--run", required=True, help="name of a sweep, a study or another run with children")
    parser.add_argument("--child", help="name of the child whose curves and grids are shown")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the screenshots go")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    parser.add_argument("--seconds", type=float, default=120, help="the longest that anything may take to appear")
    return parser.parse_args()


def main() -> int:
    """Exit code 0 when everything is there, 1 with one line when something is not."""
    given = arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        if given.browser is None:
            raise Missing(f"no browser: none of {', '.join(BROWSERS)} is installed")
        store = Store.ask(given.uri.rstrip("/"), given.experiment, given.run)
        with sync_playwright() as playwright:
            # Chromium's sandbox is not to be had for root, which a container often is; the pages are our own.
            browser = playwright.chromium.launch(executable_path=given.browser, chromium_sandbox=False)
            look(store, browser, given.folder, given.child, given.seconds)
            browser.close()
    except (Missing, UserError, Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The comparison of objectives: trains every configuration, scores it on a simulated scene and writes one table.

    fusion3d simulate --out scene --size 1000 --ortho-pixel 0.4
    fusion3d prepare scene/scene.yaml --out scene.zarr
    python tools/ablations.py scene.zarr --scene scene --out runs/ablations

Three parts, each with every seed: `updates`, where each encoder is updated as often in every configuration (one that runs two
encoders a step takes more steps); `seconds`, where every configuration has the same CPU time; and `steps`, at the same number of
steps, of the configurations for which that is another run. Finished runs are kept and a killed one goes on: give the same command
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ablation_table import COLUMNS, markdown, spread, write_json, write_text
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from fusion3d.errors import ConfigError, Fusion3DError, InputError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "ablations"
PARTS = ("updates", "seconds", "steps")


class CpuClock(Callback):
    """CPU seconds of a run's training loop and updates of its encoders, kept in the checkpoint; a resumed run counts on."""

    def __init__(self) -> None:
        self._before, self._updates, self._began, self._parent = 0.0, 0, time.process_time(), os.getppid()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.process_time()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if os.getppid() != self._parent:
            os._exit(1)  # the table was killed: its next call resumes this run, which must not still be running

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        for encoder in pl_module.encoders.values():  # type: ignore[union-attr]
            self._updates += any(parameter.grad is not None for parameter in encoder.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._before + time.process_time() - self._began, "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self._updates = state_dict["seconds"], state_dict["updates"]


@dataclass(frozen=True)
class Configuration:
    """A row of the table.

    Attributes
    ----------
    running : encoders that a step updates
    """

    name: str
    path: Path
    options: dict[str, Any]
    running: int


@dataclass(frozen=True)
class Run:
    """One training of a configuration."""

    part: str
    configuration: Configuration
    seed: int
    steps: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "trained.json"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"


def configurations(sensors: int, only: Sequence[str] | None = None) -> list[Configuration]:
    """All rows, or those named in `only`.

    Raises
    ------
    ConfigError
        A name in `only` is not known.
    """
    from fusion3d.pretraining import baselines as baselines  # registers them
    from fusion3d.pretraining.alignment import alignment_class

    found = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        options = yaml.safe_load(path.read_text())
        every = alignment_class(options["model"]["alignment"]).every_sensor
        found.append(Configuration(path.stem, path, options, sensors if every else min(sensors, 2 * options["model"]["pairs"])))
    unknown = sorted(set(only or ()) - {item.name for item in found})
    if unknown:
        raise ConfigError(f"--only names {', '.join(unknown)}; choose from {', '.join(item.name for item in found)}")
    return [item for item in found if only is None or item.name in only]


class Table:
    """The runs of a comparison, in a folder.

    Parameters
    ----------
    steps : of a configuration that updates every encoder in each step
    budget : CPU seconds of a run of the part `seconds`; None takes the mean of the part `updates`
    """

    def __init__(
        self,
        store: Path,
        scene: Path,
        out: Path,
        rows: Sequence[Configuration],
        sensors: int,
        steps: int,
        seeds: int,
        budget: float | None,
    ) -> None:
        self.store, self.scene, self.out, self.rows = store.resolve(), scene.resolve(), out, list(rows)
        self.sensors, self.steps, self.seeds, self.budget = sensors, steps, seeds, budget
        self._settle()

    def _settle(self) -> None:
        """Runs of one folder belong together: refuse to mix stores and numbers of steps."""
        settings = {"store": str(self.store), "scene": str(self.scene), "steps": self.steps}
        path = self.out / "settings.json"
        if path.exists() and (before := json.loads(path.read_text())) != settings:
            changed = ", ".join(f"{name} {before[name]}" for name in settings if before.get(name) != settings[name])
            raise InputError(path, f"the runs there were made with {changed}", "give the same options, or another --out")
        write_json(path, settings)

    def runs(self, part: str) -> list[Run]:
        """Of a part, seed by seed; in `seconds`, of the configurations with a finished run in `updates`."""
        found = []
        for seed in range(self.seeds):
            for row in self.rows:
                folder = self.out / part / row.name / f"seed{seed}"
                if part == "updates":
                    found.append(Run(part, row, seed, self.equal_updates(row), folder))
                elif part == "steps" and self.steps != self.equal_updates(row):
                    found.append(Run(part, row, seed, self.steps, folder))
                elif part == "seconds" and self._trained(row):
                    found.append(Run(part, row, seed, self.equal_seconds(row), folder))
        return found

    def equal_updates(self, row: Configuration) -> int:
        """Steps in which each encoder is updated `steps` times."""
        return max(1, round(self.steps * self.sensors / row.running))

    def equal_seconds(self, row: Configuration) -> int:
        """Steps that fit into the budget, from the CPU time of a step in the part `updates`; the same in every later call."""
        path = self.out / "seconds" / row.name / "plan.json"
        if not path.exists():
            per_step = statistics.mean(one["cpu_seconds"] / one["steps"] for one in self._trained(row))
            write_json(path, {"steps": max(1, int(self._budget() / per_step)), "seconds_per_step": per_step})
        return int(json.loads(path.read_text())["steps"])

    def _budget(self) -> float:
        """CPU seconds of a run of the part `seconds`, settled once for all of them."""
        path = self.out / "seconds" / "budget.json"
        if not path.exists():
            spent = [one["cpu_seconds"] for row in self.rows for one in self._trained(row)]
            write_json(path, {"cpu_seconds": self.budget or statistics.mean(spent)})
        settled = float(json.loads(path.read_text())["cpu_seconds"])
        if self.budget is not None and self.budget != settled:
            raise InputError(path, f"says {settled:.0f} s", "give the same --budget-seconds, or another --out")
        return settled

    def _trained(self, row: Configuration) -> list[dict[str, Any]]:
        """Finished runs of a configuration at equal updates."""
        paths = [self.out / "updates" / row.name / f"seed{seed}" / "trained.json" for seed in range(self.seeds)]
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    def command(self, run: Run) -> list[str]:
        """What trains a run, or goes on with it."""
        words = ["pretrain", "--config", str(run.configuration.path), "--data.store", str(self.store), "--out", str(run.folder)]
        words += ["--seed_everything", str(run.seed), "--trainer.max_steps", str(run.steps), "--trainer.accelerator", "cpu"]
        words += ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "ablations.CpuClock", "--resume"]
        return [sys.executable, "-m", "fusion3d.cli", *words]

    def train(self, run: Run, threads: int) -> str | None:
        """Train a run that is not finished; a line about what went wrong, None if nothing did."""
        import torch

        from fusion3d.pretraining.callbacks import last_checkpoint

        if run.result.exists():
            return None
        run.folder.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
        finished = subprocess.run(self.command(run), env=environment, capture_output=True, text=True, check=False)
        (run.folder / "training.log").write_text(finished.stdout + finished.stderr)
        if finished.returncode:
            lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
            return f"{run.part} {run.configuration.name} seed {run.seed}: {lines[-1]} (see {run.folder / 'training.log'})"
        checkpoint = torch.load(last_checkpoint(run.folder), map_location="cpu", weights_only=True, mmap=True)
        clock = checkpoint["callbacks"]["CpuClock"]
        write_json(
            run.result,
            {
                "steps": checkpoint["global_step"],
                "cpu_seconds": clock["seconds"],
                "encoder_updates": clock["updates"] / self.sensors,
            },
        )
        return None

    def table(self, parts: Sequence[str]) -> dict[str, Any]:
        """Mean and spread over the seeds that are finished, by part and configuration."""
        result: dict[str, Any] = {}
        for part in parts:
            for run in self.runs(part):
                if run.scores.exists():
                    row = result.setdefault(part, {}).setdefault(run.configuration.name, {"steps": run.steps, "seeds": []})
                    row["seeds"].append(
                        json.loads(run.result.read_text()) | json.loads(run.scores.read_text()) | {"seed": run.seed}
                    )
            for row in result.get(part, {}).values():
                for kind in COLUMNS:
                    values = [one[kind] for one in row["seeds"] if one.get(kind) is not None]
                    row[kind] = None if not values else {"mean": statistics.mean(values), "spread": spread(values)}
        return result


# -- how long it takes


def seconds_per_step(row: Configuration, store: Path, steps: int = 2) -> float:
    """CPU seconds of a training step, the reading of its chips included, of a fresh model."""
    from fusion3d.data.datamodule import ChipDataModule
    from fusion3d.pretraining.command import pairs_to_read
    from fusion3d.pretraining.module import CrossModalPretraining

    options = row.options["model"]
    read = pairs_to_read(options["pairs"], options["alignment"])
    data = ChipDataModule(str(store), pairs=read, **row.options["data"])
    data.setup()
    module = CrossModalPretraining(**options, scene=data.facts())
    module.configure_model()
    batches = iter(data.train_dataloader())
    taken = []
    for step in range(steps + 1):
        began = time.process_time()
        batch = next(batches)
        loss, _ = module.loss(batch, module.draw(batch, (0, step)), (0, step))
        loss.backward()
        module.zero_grad()
        taken.append(time.process_time() - began)
    return statistics.mean(taken[1:])


def estimate(table: Table, parts: Sequence[str], jobs: int) -> Iterator[str]:
    """Lines about the time that is left, from a few steps of each configuration."""
    path = table.out / "timing.json"
    timing = json.loads(path.read_text()) if path.exists() else {}
    for row in table.rows:
        if row.name not in timing:
            timing[row.name] = seconds_per_step(row, table.store, 2 if row.running == table.sensors else 6)
            write_json(path, timing)
        yield f"{row.name}: {timing[row.name]:.2f} CPU s a step"
    cost = {row.name: timing[row.name] * table.equal_updates(row) for row in table.rows}
    budget = table.budget or statistics.mean(cost.values())
    left = 0.0
    for part in parts:
        for row in table.rows:
            if part == "steps" and table.equal_updates(row) == table.steps:
                continue
            folders = [table.out / part / row.name / f"seed{seed}" for seed in range(table.seeds)]
            each = {"updates": cost[row.name], "seconds": budget, "steps": timing[row.name] * table.steps}[part]
            left += each * sum(not (folder / "trained.json").exists() for folder in folders)
    hours = left / 3600
    yield f"training that is left: about {hours:.2f} CPU hours, {hours / jobs:.2f} h with {jobs} at a time; scoring comes on top"


# -- the command


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return compare(options)
    except Fusion3DError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("store", type=Path, help="column store of a simulated scene")
    made.add_argument("--scene", type=Path, required=True, help="folder of `fusion3d simulate`, for its truth")
    made.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of the runs and of the table")
    made.add_argument("--steps", type=int, default=600, help="steps of a configuration that runs all encoders")
    made.add_argument("--seeds", type=int, default=3, help="trainings of each configuration")
    made.add_argument("--only", type=lambda text: text.split(","), help="configurations, comma-separated [default: all]")
    made.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help="of updates,seconds,steps")
    made.add_argument("--budget-seconds", type=float, help="CPU s of a run at equal time [default: mean of equal updates]")
    made.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    made.add_argument("--threads", type=int, default=1, help="threads of a training")
    made.add_argument("--train-chips", type=int, default=32, help="chips outside of the held-out part that probes are fitted on")
    return made


def compare(options: argparse.Namespace) -> int:
    """Train, score and write what the options ask for; 1 when a run failed."""
    import torch

    from fusion3d.store import Store

    for name in ("steps", "seeds", "jobs", "threads", "train_chips"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    if options.budget_seconds is not None and not options.budget_seconds > 0:
        raise ConfigError(f"--budget-seconds {options.budget_seconds} must be positive")
    if set(options.parts) - set(PARTS):
        raise ConfigError(f"--parts {','.join(options.parts)}: choose from {', '.join(PARTS)}")
    if not (options.scene / "truth").is_dir():
        raise InputError(options.scene, "holds no truth/", "give the folder that `fusion3d simulate` wrote")
    torch.set_num_threads(options.threads)
    store = Store.open(options.store)
    sensors = len(store.sensors)
    rows = configurations(sensors, options.only)
    table = Table(options.store, options.scene, options.out, rows, sensors, options.steps, options.seeds, options.budget_seconds)
    parts = [part for part in PARTS if part in options.parts]
    print(f"{len(rows)} configurations, {options.seeds} seeds, sensors {', '.join(store.sensors)}", flush=True)
    for line in estimate(table, parts, options.jobs):
        print(line, flush=True)
    failed = []
    for part in parts:
        runs = table.runs(part)
        if part == "seconds" and not runs:
            raise ConfigError(
                "equal CPU time is planned by the runs at equal updates, and there are none; add updates to --parts"
            )
        with ThreadPoolExecutor(options.jobs) as pool:
            for run, problem in zip(runs, pool.map(lambda run: table.train(run, options.threads), runs)):
                problem = problem or score_run(run, store, options.scene, options.train_chips)
                if problem is None:
                    print(f"{part} {run.configuration.name} seed {run.seed}: done", flush=True)
                else:
                    failed.append(problem)
                    print(problem, file=sys.stderr, flush=True)
        written = table.table(parts)
        write_json(options.out / "table.json", written)
        write_text(options.out / "table.md", markdown(written, options.store))
    print(markdown(table.table(parts), options.store))
    print(f"table in {options.out / 'table.md'} and {options.out / 'table.json'}")
    return 1 if failed else 0


_MATERIAL: dict[tuple[Any, ...], Any] = {}


def score_run(run: Run, store: Any, scene: Path, train_chips: int) -> str | None:
    """Score a trained run unless that is done; a line about what went wrong. What is read for one seed is kept until the next."""
    from ablation_scores import read_material, score

    from fusion3d.evaluation.checkpoint import load_pretraining

    if run.scores.exists():
        return None
    data = run.configuration.options["data"]
    key = (store.path, run.seed, data["size"], data["max_points_per_column"], train_chips)
    try:
        if key not in _MATERIAL:
            _MATERIAL.clear()
            module = load_pretraining(run.folder, "cpu")
            _MATERIAL[key] = read_material(module, store, scene, data["size"], data["max_points_per_column"], train_chips)
        write_json(run.scores, score(run.folder, _MATERIAL[key], run.seed))
    except Fusion3DError as error:
        return f"{run.part} {run.configuration.name} seed {run.seed}: {error}"
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

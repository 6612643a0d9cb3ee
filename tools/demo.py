"""The whole way on a simulated scene with known truth: from raw files to a biomass map and a report to look at."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain_demo.yaml"


def run(*words: str | Path) -> None:
    command = [str(word) for word in words]
    print(f"\n$ fusion3d {shlex.join(command)}", flush=True)
    finished = subprocess.run([sys.executable, "-m", "fusion3d.cli", *command], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for the results; an earlier demo there is replaced"
    )
    parser.add_argument("--size", type=int, default=1000, help="side of the scene, metres")
    parser.add_argument("--steps", type=int, default=None, help="training steps [default: the configuration's]")
    options = parser.parse_args()
    began = time.monotonic()
    out: Path = options.out
    scene, store, trained = out / "scene", out / "scene.zarr", out / "run"
    for made in (scene, store, trained):
        if made.exists():
            shutil.rmtree(made)
    out.mkdir(parents=True, exist_ok=True)
    steps = ("--trainer.max_steps", str(options.steps)) if options.steps else ()
    embedding, biomass = trained / "embedding.tif", trained / "biomass"

    run("simulate", "--out", scene, "--size", str(options.size), "--density", "4", "--ortho-pixel", "0.4")
    run("prepare", scene / "scene.yaml", "--voxel", "1", "--out", store)
    run("pretrain", "--config", CONFIG, "--data.store", store, "--out", trained, *steps)
    run("evaluate", trained, store, "--out", trained / "retrieval.json")
    run("embed", trained, store, "--tile", "32", "--workers", "1", "--out", embedding)
    labels = ("--labels", scene / "labels" / "plots.gpkg", "--target", "agb", "--unit", "Mg/ha")
    run("fit", "--task", "biomass", embedding, *labels, "--store", store, "--out", biomass)
    run("map", biomass, embedding, "--out", trained / "agb.tif")
    run("total", trained / "agb.tif", "--model", biomass, "--out", trained / "totals.csv")
    truth = ("--truth", f"agb={scene / 'truth' / 'agb.tif'}")
    run("report", trained, *truth, "--out", out / "report.html")
    print(f"\ndemo: {(time.monotonic() - began) / 60:.1f} minutes; open {out / 'report.html'} in a browser")


if __name__ == "__main__":
    main()

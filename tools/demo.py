"""The whole way on real sample files: prepare, pretrain, embed, evaluate, and a picture to look at."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

DATA = Path(os.environ.get("FUSION3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


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
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    options = parser.parse_args()
    tiles = DATA / "ign_lidarhd_fr"
    if not tiles.is_dir():
        sys.exit(f"demo: no sample files in {tiles}: set FUSION3D_TEST_DATA to the folder that holds ign_lidarhd_fr")
    out: Path = options.out
    if (out / "demo.zarr").exists() or (out / "run").exists():
        for name in ("demo.zarr", "run"):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    store, trained = out / "demo.zarr", out / "run"
    config = Path(__file__).parents[1] / "configs" / "pretrain_tiny.yaml"
    run(
        "prepare",
        tiles / "laz",
        "--raster",
        f"ortho={tiles / 'test_data_rgb.tif'}",
        "--raster",
        f"irc={tiles / 'test_data_irc.tif'}",
        "--column",
        "2",
        "--out",
        store,
    )
    run("info", store)
    run("pretrain", "--config", config, "--data.store", store, "--out", trained, "--trainer.max_steps", str(options.steps))
    run(
        "embed",
        trained,
        store,
        "--out",
        out / "embedding.tif",
        "--out",
        out / "embedding.parquet",
        "--picture",
        out / "embedding.png",
    )
    run("evaluate", trained, store, "--out", out / "retrieval.json")
    print(f"\ndemo: look at {out / 'embedding.png'}; the map is {out / 'embedding.tif'}, the figures {out / 'retrieval.json'}")


if __name__ == "__main__":
    main()

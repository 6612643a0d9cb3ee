"""The README's commands, run as a stranger would, on real files; and what the project promises about importing it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == language]


def commands() -> list[str]:
    return [line for text in blocks("bash") for line in text.splitlines() if line.startswith("fusion3d ")]


@pytest.fixture(scope="module")
def stranger(data_dir, tmp_path_factory) -> Path:
    """A folder as the README supposes it: tiles/, ortho.tif, configs/."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(data_dir / "ign_lidarhd_fr" / "laz", folder / "tiles")
    shutil.copy(data_dir / "ign_lidarhd_fr" / "test_data_rgb.tif", folder / "ortho.tif")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_readme_commands_work_in_order_on_real_files(stranger):
    assert len(commands()) >= 7
    for command in commands():
        # The readme's own configuration is trained in full by `make demo`; here a few steps show that the command works.
        extra = " --trainer.max_steps 8" if command.startswith("fusion3d pretrain") else ""
        finished = run(command + extra, stranger)
        assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    maps = ("embedding.tif", "embedding.parquet", "embedding.png", "als_only.tif", "runs/simulated/agb.tif")
    for name in (*maps, "retrieval.json", "runs/simulated/report.html", "gedi_simulated/footprints.gpkg"):
        assert (stranger / name).stat().st_size > 0
    for text in blocks("python"):
        finished = run(f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}", stranger)
        assert finished.returncode == 0, finished.stderr


def test_every_file_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_first_line_of_each_configuration_is_its_command():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.read_text().splitlines()[0].startswith("# fusion3d "), path


def test_importing_fusion3d_loads_neither_torch_nor_anything_else_that_is_slow():
    code = "import sys, fusion3d; print([name for name in ('torch', 'numpy', 'rasterio', 'zarr') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_preparing_and_reading_do_not_load_torch():
    code = "import sys, fusion3d.prepare.run, fusion3d.store, fusion3d.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_importing_fusion3d_bounds_what_onednn_keeps_unless_the_user_says_otherwise():
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    others = {key: value for key, value in os.environ.items() if key != name}
    code = f"import os, fusion3d; print(os.environ['{name}'])"
    for given, expected in (({}, "256"), ({name: "32"}, "32")):
        found = subprocess.run([sys.executable, "-c", code], env={**others, **given}, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == expected

"""The same oblique view by Open3D, off screen, in a process of its own: without a display or a driver, it may end the process.

As a program: ``python -m fusion3d.report.open3d_view points.npz`` draws what `draw` saved there into ``0.npy``,
``1.npy``, ... beside it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path

import numpy as np

from fusion3d.report.splatting import Float64, Frame, Image

_SECONDS = 90
_SOFTWARE = {"OPEN3D_CPU_RENDERING": "true"}
"""Open3D then draws without a graphics card."""


def draw(projected: Float64, colourings: list[Image], frame: Frame) -> list[Image] | None:
    """RGB pictures, one a colouring [N, 3]; None when Open3D is not installed or cannot draw on this machine."""
    if importlib.util.find_spec("open3d") is None:
        return None
    with tempfile.TemporaryDirectory(prefix="fusion3d-view-") as folder:
        given = Path(folder) / "points.npz"
        np.savez(given, projected=projected, colours=np.stack(colourings), frame=np.array(astuple(frame)))
        try:
            command = [sys.executable, "-m", "fusion3d.report.open3d_view", str(given)]
            subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, env=os.environ | _SOFTWARE)
            pictures = [np.load(Path(folder) / f"{number}.npy") for number in range(len(colourings))]
        except (subprocess.SubprocessError, OSError, ValueError):
            return None
    # A driver that draws nothing gives a white picture rather than an error.
    return pictures if all((picture < 250).any() for picture in pictures) else None


def main(given: Path) -> None:
    import open3d
    from open3d.visualization import rendering

    saved = np.load(given)
    projected, frame = saved["projected"], Frame(*saved["frame"][:3], *map(int, saved["frame"][3:]))
    renderer = rendering.OffscreenRenderer(frame.width, frame.height)
    renderer.scene.set_background([1.0, 1.0, 1.0, 1.0])
    renderer.scene.view.set_post_processing(False)
    material = rendering.MaterialRecord()
    material.shader, material.point_size = "defaultUnlit", 3.0
    centre = np.array([frame.left + frame.width * frame.metres / 2, frame.bottom + frame.height * frame.metres / 2, 0.0])
    local = projected - centre
    local[:, 2] -= local[:, 2].max()
    deep = float(-local[:, 2].min()) + 10.0
    for number, colours in enumerate(saved["colours"]):
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(local))
        cloud.colors = open3d.utility.Vector3dVector(colours / 255.0)
        renderer.scene.clear_geometry()
        renderer.scene.add_geometry("points", cloud, material)
        camera = renderer.scene.camera
        camera.look_at([0.0, 0.0, -1.0], [0.0, 0.0, 5.0], [0.0, 1.0, 0.0])
        wide, high = frame.width * frame.metres / 2, frame.height * frame.metres / 2
        camera.set_projection(rendering.Camera.Projection.Ortho, -wide, wide, -high, high, 0.1, deep + 10.0)
        np.save(given.parent / f"{number}.npy", np.asarray(renderer.render_to_image()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

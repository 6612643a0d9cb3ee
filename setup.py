"""Compiles the operators where a compiler and torch are there; without them the package is pure Python."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "cuda_ext"))
import build  # noqa: E402


class BuildWithOperators(build_py):
    """build_py, then the library of compiled operators beside the files it serves."""

    library: Path | None = None

    def run(self) -> None:
        super().run()
        output = (ROOT if self.editable_mode else Path(self.build_lib)) / build.LIBRARY
        try:
            tools = build.build(output)
        except (build.CannotBuild, OSError) as problem:
            if not self.editable_mode:  # build/lib of an earlier run may hold another library
                output.unlink(missing_ok=True)
            self.warn(f"fusion3d is installed without compiled operators and will be slower: {problem}")
            return
        self.library = output
        self.announce(build.describe(output, tools), level=2)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Installed files, the library included."""
        return [*super().get_outputs(include_bytecode), *([str(self.library)] if self.library else [])]


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and every Python, for the library has no Python symbols; a pure wheel without a library."""

    def run(self) -> None:
        self.run_command("build")
        if self.get_finalized_command("build_py").library is not None:
            self.root_is_pure = False
            self.distribution.has_ext_modules = lambda: True  # installs into platlib
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform of the wheel's name."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(cmdclass={"build_py": BuildWithOperators, "bdist_wheel": PlatformWheel})

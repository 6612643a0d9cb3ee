"""Fuzz the readers with atheris (coverage-guided): python tools/fuzz/run.py [TARGET ...] --seconds N

A finding is written into --findings and the exit status is 1: mend it, then put the input into tools/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

_MEMORY_MB, _SLOW_SECONDS, _LONGEST = 2048, 20, 16384


def main() -> int:
    """Run each target for the time that was asked for; one line each, with executions, inputs that were kept and findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="las_header, points, gedi, gedi_contents [default: all]")
    parser.add_argument("--seconds", type=int, default=15, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for inputs that break something")
    parser.add_argument("--keep", type=Path, help="folder that keeps the inputs which reached new code")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _fuzz(options.inside, options.targets)
    from tools.fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    return max([_run(name, options) for name in options.targets or TARGETS])


def _run(target: str, options: argparse.Namespace) -> int:
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        kept = Path(fresh) if options.keep is None else options.keep / target
        kept.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-max_total_time={options.seconds}", f"-rss_limit_mb={_MEMORY_MB}", f"-timeout={_SLOW_SECONDS}",
            f"-max_len={_LONGEST}", f"-seed={options.seed}", "-print_final_stats=1",
            f"-artifact_prefix={options.findings}/{target}-",
        ]  # fmt: skip
        command = [
            sys.executable,
            __file__,
            "--inside",
            target,
            "--",
            *flags,
            str(kept),
            str(ROOT / "tools/fuzz/corpus" / target),
        ]
        # libFuzzer takes the first folder for what it finds, and only reads the others
        before = _cpu_seconds()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        spent, held = _cpu_seconds() - before, len(list(kept.iterdir()))
    number = re.search(r"number_of_executed_units:\s*(\d+)", done.stdout)
    reached = re.findall(r"cov: (\d+)", done.stdout)
    print(
        f"{target}: {int(number[1]) if number else 0:,} executions in {spent:.0f} CPU seconds, {held} inputs kept, "
        f"{reached[-1] if reached else 'no'} places reached, {'no finding' if done.returncode == 0 else 'a FINDING'}",
        flush=True,
    )
    if done.returncode:
        print(done.stdout[-6000:])
    return int(done.returncode != 0)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fuzz(target: str, flags: list[str]) -> int:
    import atheris

    with atheris.instrument_imports(include=["fusion3d"]):
        from tools.fuzz.targets import check

    atheris.Setup([sys.argv[0], *flags], lambda data: check(target, data))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

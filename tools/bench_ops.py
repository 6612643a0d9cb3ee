"""How fast the operators are beside their peers: results compared first, then timed in turns, as a Markdown table.

    .venv/bin/python tools/bench_ops.py                        # the full size: 5 M rows, about 6 GB of memory
    .venv/bin/python tools/bench_ops.py --scale 0.1 --rounds 2 --only max

Ratios of one run can be compared; times of different runs cannot. On a busy machine read the CPU column.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "cuda_ext")]
from bench.harness import check, machine, measure, table  # noqa: E402

from fusion3d.ops import native  # noqa: E402

OPERATORS = (
    "column_pool",
    "column_quantile",
    "contrast",
    "footprint_pool",
    "height_profile",
    "kernel_map",
    "lift",
    "softmax_pool",
    "sparse_conv",
    "voxelize",
)
"""One file each in cuda_ext/bench, with a function `cases(device, scale)`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", default=list(OPERATORS), help=f"of {', '.join(OPERATORS)}; default all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--scale", type=float, default=1.0, help="of the full size")
    parser.add_argument("--rounds", type=int, default=5, help="best of so many")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--output", type=Path, help="file to write; default: standard output")
    options = parser.parse_args()
    unknown = set(options.operators) - set(OPERATORS)
    if unknown:
        raise SystemExit(f"bench_ops: no benchmark of {', '.join(sorted(unknown))}; there are {', '.join(OPERATORS)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_ops: --device cuda, but torch finds no NVIDIA GPU")
    torch.set_num_threads(options.threads)
    parts = [
        f"{machine(device)}; {datetime.date.today()}; best of {options.rounds}.\n",
        *(f"{line}\n" for line in native.report()),
    ]
    for operator in options.operators:
        parts.append(f"## {operator}\n")
        for case in importlib.import_module(f"bench.{operator}").cases(device, options.scale):
            if options.only in case.name:
                check(case)
                parts.append(table(case, measure(case, options.rounds, device)))
                print(parts[-1], file=sys.stderr, flush=True)
    text = "\n".join(parts)
    if options.output:
        options.output.write_text(text)
        print(f"wrote {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()

"""The table of `ablations.py`: figures of runs to mean and spread, JSON and Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = {
    "fused": "fused R2",
    "half_missing": "half missing R2",
    "private": "private R2",
    "recall_at_10": "R@10",
    "chance_at_10": "chance",
    "loss_ms": "loss ms",
    "cpu_seconds": "CPU s",
    "encoder_updates": "encoder updates",
}
_DIGITS = {"loss_ms": 1, "cpu_seconds": 0, "encoder_updates": 0}


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None of one."""
    return statistics.stdev(values) if len(values) > 1 else None


def markdown(table: dict[str, Any], store: Path) -> str:
    """The table as text, one section for each part."""
    about = {
        "updates": "equal updates of every encoder",
        "seconds": "equal CPU time of training",
        "steps": "equal steps",
    }
    lines = [
        "# Objectives compared",
        "",
        f"Simulated scene {store}; mean ± standard deviation over seeds, R2 on held-out columns.",
        "",
    ]
    for part, rows in table.items():
        lines += [f"## At {about[part]}", "", "| configuration | steps | seeds | " + " | ".join(COLUMNS.values()) + " |"]
        lines.append("|---|" + "---:|" * (len(COLUMNS) + 2))
        for name, row in rows.items():
            cells = [cell(row[kind], _DIGITS.get(kind, 3)) for kind in COLUMNS]
            lines.append(f"| {name} | {row['steps']} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
        private = sorted({item for row in rows.values() for one in row["seeds"] for item in one["private_by_variable"]})
        lines += ["", "Private variables, each from the sensor that sees it:", ""]
        lines += ["| configuration | " + " | ".join(private) + " |", "|---|" + "---:|" * len(private)]
        for name, row in rows.items():
            means = [
                [one["private_by_variable"][item] for one in row["seeds"] if item in one["private_by_variable"]]
                for item in private
            ]
            cells = [cell({"mean": statistics.mean(part), "spread": spread(part)} if part else None, 3) for part in means]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(figure: dict[str, Any] | None, digits: int) -> str:
    if figure is None:
        return "-"
    text = f"{figure['mean']:.{digits}f}"
    return text if figure["spread"] is None else f"{text} ± {figure['spread']:.{digits}f}"


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)

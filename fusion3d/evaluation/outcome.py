"""Everything that one `fusion3d evaluate` found, as text, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion3d.evaluation.probe_table import ProbeReport, markdown_table
from fusion3d.evaluation.robustness_table import RobustnessReport
from fusion3d.evaluation.table import RECALLS, RetrievalReport
from fusion3d.io.json_file import write_json
from fusion3d.io.whole_file import write_whole

PROBES, ROBUSTNESS = "probes", "robustness"
"""Keys of the probes and of robustness in the JSON, beside those of retrieval."""
_MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True)
class Evaluation:
    """Retrieval, probes and robustness of a checkpoint; None for what was not asked for."""

    retrieval: RetrievalReport | None
    probes: ProbeReport | None
    robustness: RobustnessReport | None = None

    def table(self) -> str:
        """All figures as text."""
        return "\n\n".join(part.table() for part in (self.retrieval, self.probes, self.robustness) if part is not None)

    def markdown(self) -> str:
        """All figures as Markdown tables."""
        parts = ["# Evaluation"]
        if self.retrieval is not None:
            title, *_ = self.retrieval.table().splitlines()
            header = ["query", "gallery", "N", *(f"R@{k} (chance)" for k in RECALLS), "median rank (chance)"]
            rows = [
                [pair.query, pair.gallery, str(pair.candidates),
                 *(f"{100 * pair.recall[k]:.1f} % ({100 * pair.chance[k]:.1f} %)" for k in RECALLS),
                 f"{pair.median_rank:g} ({(pair.candidates + 1) / 2:g})"]
                for pair in self.retrieval.pairs
            ]  # fmt: skip
            parts.append(f"## Retrieval\n\n{title}\n\n{markdown_table(header, rows, left=2)}")
            parts += [f"Left out: {text}" for text in self.retrieval.left_out]
        if self.probes is not None:
            parts.append(self.probes.markdown().rstrip())
        if self.robustness is not None:
            parts.append(self.robustness.markdown().rstrip())
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain types: the figures of retrieval, those of probes under "probes" and of robustness under "robustness"."""
        found = {} if self.retrieval is None else self.retrieval.to_json()
        parts = {PROBES: self.probes, ROBUSTNESS: self.robustness}
        return {**found, **{name: part.to_json() for name, part in parts.items() if part is not None}}

    def write(self, path: str | Path) -> Path:
        """Write a file, whole or not at all: Markdown when its name ends in .md, else JSON."""
        path = Path(path)
        if path.suffix.lower() in _MARKDOWN:
            return write_whole(path, self.markdown())
        return write_json(path, self.to_json())

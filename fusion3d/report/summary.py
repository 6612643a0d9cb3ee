"""What the run is, in a few figures."""

from __future__ import annotations

from fusion3d.report.inputs import sensor_facts
from fusion3d.report.losses import last_step, read_losses
from fusion3d.report.markup import cards, damaged, number, sentence
from fusion3d.report.material import Material, attempt
from fusion3d.report.predictions import held_out_agreement
from fusion3d.report.retrieval import mean_recall, read_retrieval
from fusion3d.tasks.held_out import HeldOut


def summary_section(material: Material) -> str:
    """Sentences on what was done, and cards of key figures; what is not known is left out, its own section says why."""
    curves = attempt(lambda: read_losses(material.run)) or []
    retrieval = attempt(lambda: read_retrieval(material.retrieval)) if material.retrieval is not None else None
    plots = attempt(lambda: held_out_agreement(HeldOut.read(material.fit))) if material.fit is not None else None
    store = attempt(lambda: material.store)
    variable = material.variable
    shown: list[tuple[str, str, str]] = []
    what = "Encoders of several sensors were trained to say alike of the same place, from location alone, without labels."
    if store is not None:
        grid = store.grid
        columns = grid.rows * grid.cols
        names = ", ".join(item.name for item in sensor_facts(store))
        hectares = columns * grid.column**2 / 1e4
        area = f"{number(hectares / 100)} km²" if hectares >= 100 else f"{number(hectares)} ha"
        shown.append((str(len(store.sensors)), "sensor" if len(store.sensors) == 1 else "sensors", names))
        shown.append((f"{columns:,}".replace(",", " "), f"columns of {grid.column:g} m", area))
    steps = retrieval.steps if retrieval is not None and not retrieval.untrained else last_step(curves)
    if steps:
        preset = material.option("model", "preset")
        shown.append((f"{steps:,}".replace(",", " "), "training steps", f"preset {preset}" if preset else ""))
    if retrieval is not None and retrieval.pairs:
        recall, chance, counted = mean_recall(retrieval, 10)
        label = f"R@10, mean of {counted} pairs" + (", random weights" if retrieval.untrained else "")
        shown.append((f"{100 * recall:.1f} %", label, f"chance {100 * chance:.1f} %"))
    if plots is not None:
        unit = material.scorecard.unit if material.scorecard is not None else ""
        shown.append((number(plots.r2, 2), f"R² of {variable}", f"{plots.n} held-out plots"))
        label = f"RMSE of {variable}" + (f", {unit}" if unit else "")
        shown.append((number(plots.rmse), label, f"bias {number(plots.bias)}"))
    when = f" Training ended on {material.trained_on:%Y-%m-%d at %H:%M} UTC." if material.trained_on else ""
    body = sentence(what + when)
    body += cards(shown) if shown else ""
    if store is None:
        try:
            _ = material.store
        except Exception as error:
            body += damaged(error)
    return body

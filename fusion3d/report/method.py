"""A paragraph of method for a paper, written from the configuration and the files: it says what was done here, and no more."""

from __future__ import annotations

from fusion3d import __version__
from fusion3d.report.inputs import SensorFacts, sensor_facts, when
from fusion3d.report.losses import last_step, read_losses
from fusion3d.report.markup import number, sentence
from fusion3d.report.material import Material, attempt
from fusion3d.report.raster_view import RasterFacts, facts
from fusion3d.tasks.classes.class_card import ClassCard
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.scorecard import Scorecard

_ALIGNMENTS = {
    "pairs": "the features of a column from two sensors were contrasted with those of other columns (InfoNCE, van den Oord et "
    "al. 2018), in {pairs} of sensors a step",
    "none": "no alignment between sensors was trained",
    "star": "the features of a column from each sensor were contrasted with those from one sensor (a star, Girdhar et al. 2023)",
    "mil_nce": "the features of a column from all sensors were contrasted together (multi-modal MIL-NCE, Astruc et al. 2024)",
    "consensus": "the features of a column from each sensor were contrasted with the mean of the others'",
    "jepa": "features of hidden parts were predicted from a teacher that is a moving average (JEPA, Assran et al. 2023)",
}
_FUSIONS = {
    "mean": "averaged",
    "precision": "averaged with weights in proportion to their estimated precision",
    "attention": "fused by self-attention over sensors (Lee et al. 2019)",
}
_SPREAD = (
    "Intervals are split conformal (Lei et al. 2018) with residuals scaled by their spread at the prediction, calibrated on "
    "held-out plots"
)
_AREA = "extrapolation is told by the area of applicability (Meyer and Pebesma 2021)"


def method_section(material: Material) -> str:
    """What was done, from data to map; what no file says is left out."""
    paragraphs = [_data(material), _training(material), _embedding(material), _fit(material), _map(material)]
    body = "".join(sentence(paragraph) for paragraph in paragraphs if paragraph)
    body += sentence(f"Computed with fusion3d {__version__}.")
    return body + sentence(
        "Written from the configuration and the files of this run; allometric models, field protocol and dates of the plots are "
        "not among them and are for the author to add.", "note"
    )  # fmt: skip


def data_dates(material: Material, product: RasterFacts | None = None) -> str:
    """Dates of the sensors that a map was made from, in words; "" where no store is there.

    Parameters
    ----------
    product : header of the map; where it does not name its sensors, those of the run's embedding count
    """
    store = attempt(lambda: material.store)
    header = _header(material)
    own = "" if product is None else product.tags.get("fitted_on_sensors", "")
    named = own or (header.tags.get("sensors", "") if header else "")
    used = named.split(",") if named else []
    known = [] if store is None else [item for item in sensor_facts(store) if not used or item.name in used]
    return "; ".join(f"{item.name} {when(item)}" for item in known)


def _header(material: Material) -> RasterFacts | None:
    path = material.embedding
    return None if path is None else attempt(lambda: facts(path, 1 << 30))


def _data(material: Material) -> str:
    store = attempt(lambda: material.store)
    if store is None:
        return ""
    grid = store.grid
    hectares = grid.rows * grid.cols * grid.column**2 / 1e4
    sensors = "; ".join(_sensor(item) for item in sensor_facts(store))
    simulated = " The data are simulated." if material.simulated else ""
    return (
        f"Data. {number(hectares)} ha were divided into columns of {grid.column:g} m. Sensors: {sensors}. Heights of points are "
        f"above ground.{simulated}"
    )


def _sensor(item: SensorFacts) -> str:
    return f"{item.name} ({item.content}, {item.resolution}, {when(item)})".replace("\u00a0", " ")


def _training(material: Material) -> str:
    steps = last_step(attempt(lambda: read_losses(material.run)) or [])
    if not steps or not material.configuration_text:
        return ""
    name = material.option("model", "alignment") or "pairs"
    pairs = material.option("model", "pairs")
    how = _ALIGNMENTS.get(str(name), f"features were aligned by {name}").format(
        pairs="all pairs" if pairs in (None, "all", 0) else f"{pairs} sampled pair{'s' if pairs != 1 else ''}"
    )
    text = (
        f"Training without labels. One encoder for each sensor (preset {material.option('model', 'preset') or 'not stated'}) was "
        f"trained for {steps} steps on the location of columns alone: {how}"
    )
    if material.option("model", "retention"):
        text += ", while masked parts of each sensor's own signal were reconstructed"
    if material.option("model", "prediction"):
        text += " and each sensor's features were predicted from the fused features of the others"
    text += "."
    held = material.option("data", "holdout")
    if isinstance(held, int | float) and held > 0:
        text += f" {100 * held:g} % of the ground, in blocks, was held out of this training."
    return text


def _embedding(material: Material) -> str:
    header = _header(material)
    if header is None:
        return ""
    sensors = header.tags.get("sensors", "").replace(",", ", ")
    way = _FUSIONS.get(header.tags.get("fusion", ""), "")
    text = f"Embedding. Each cell of {header.place.pixel * header.place.unit:g} m is described by {header.count} numbers"
    if sensors:
        text += f" from {sensors}"
        text += f", {way}" if way and "," in sensors else ""
    return text + "; the encoders were not trained further."


def _fit(material: Material) -> str:
    fit = material.fit
    if fit is None:
        return ""
    if material.scorecard is not None:
        return _regression(material.scorecard)
    card = attempt(lambda: ClassCard.read(fit))
    return "" if card is None else _classification(card)


def _regression(card: Scorecard) -> str:
    unit = f" {card.unit}" if card.unit else ""
    text = (
        f"Model. {card.target} ({card.unit or 'unit not stated'}) of {card.plots} plots was related to the area-weighted mean of "
        f"the {card.dimensions} features under each plot by {card.method or card.kind}"
    )
    if card.transform != "none":
        text += f", on the scale of {card.transform}, transformed back with Duan's (1983) smearing estimate"
    found = card.model
    text += (
        f". Validation: cross-validation in {card.folds}; every plot was predicted by a model that had not seen its fold: "
        f"R² {found.r2.text()}, RMSE {found.rmse.text(1)}, bias {found.bias.text(1)}{unit}, with 90 % intervals by bootstrap"
    )
    others = {"mean of the training plots": card.null, **(card.area_based or {})}
    if card.baseline is not None:
        others["baseline raster"] = card.baseline
    text += ". RMSE in the same folds: " + "; ".join(f"{name} {each.rmse.value:.1f}" for name, each in others.items()) + "."
    if card.coverage is not None and card.coverage.n:
        text += (
            f" {_SPREAD}; {100 * card.level:g} % intervals held {100 * card.coverage.share.value:.0f} % of the held-out plots."
        )
    return text


def _classification(card: ClassCard) -> str:
    return (
        f"Model. {len(card.classes)} classes of {card.target} on {card.cells} cells were related to their {card.dimensions} "
        f"features by {card.method}. Validation: cross-validation in {card.folds}; accuracy {card.model.accuracy.text()}, macro "
        f"F1 {card.model.macro_f1.text()} (90 % intervals in brackets); the commonest class alone has accuracy "
        f"{card.commonest.accuracy.value:.2f}."
    )


def _map(material: Material) -> str:
    path = material.map
    header = None if path is None else attempt(lambda: facts(path, 1 << 30))
    if header is None:
        return ""
    parts = []
    if any("_se" in name for name in header.names):
        parts.append("the standard error")
    if any("_lower" in name for name in header.names):
        parts.append("the ends of the interval of each cell")
    beside = f", with {' and '.join(parts)}" if parts else ""
    outside = f"; {_AREA}" if EXTRAPOLATION in header.names else ""
    return (
        f"Map. The model, fitted to all plots, was applied to every cell of {header.place.pixel * header.place.unit:g} m"
        f"{beside}{outside}."
    )

"""`fusion3d report`: one HTML file that shows what a run learnt, with what, and how well."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fusion3d.errors import Fusion3DError, InputError, one_line
from fusion3d.io.whole_file import write_whole
from fusion3d.report.biomass_map import map_section, other_truth
from fusion3d.report.class_map import class_map_section, is_class_map
from fusion3d.report.class_predictions import class_predictions_section
from fusion3d.report.document import document
from fusion3d.report.embedding import embedding_section
from fusion3d.report.environment import environment_section
from fusion3d.report.inputs import inputs_section
from fusion3d.report.losses import losses_section
from fusion3d.report.markup import Section, damaged, missing
from fusion3d.report.material import Material
from fusion3d.report.method import data_dates, method_section
from fusion3d.report.point_predictions import point_predictions_section
from fusion3d.report.predictions import predictions_section
from fusion3d.report.probes import probes_section, read_probes
from fusion3d.report.raster_view import facts
from fusion3d.report.retrieval import read_retrieval, retrieval_tables
from fusion3d.report.robustness import read_robustness, robustness_section
from fusion3d.report.scene3d import scene_section
from fusion3d.report.summary import summary_section
from fusion3d.report.validation import validation_section
from fusion3d.store.reader import Store
from fusion3d.tasks.card_file import SCORES_FILE
from fusion3d.tasks.classes.class_card import is_class_fit
from fusion3d.tasks.segmentation.point_card import is_point_fit

PRETRAIN = "fusion3d pretrain --data.store STORE --out RUN"
EMBED = "fusion3d embed RUN STORE --out RUN/embedding.tif"
EVALUATE = "fusion3d evaluate RUN STORE --out RUN/retrieval.json"
PROBE = "fusion3d evaluate RUN STORE --labels LABELS --out RUN/retrieval.json"
ROBUST = "fusion3d evaluate RUN STORE --robustness --out RUN/retrieval.json"
FIT = "fusion3d fit RUN/embedding.tif --labels PLOTS --target agb --out RUN/biomass"
MAP = "fusion3d map RUN/biomass RUN/embedding.tif --out RUN/agb.tif"
_CLASS_TASKS = {"landcover": "Land cover", "crops": "Crops"}


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    store: str | Path | Store | None = None,
    embedding: str | Path | None = None,
    retrieval: str | Path | None = None,
    fit: str | Path | None = None,
    map: str | Path | None = None,
    truth: Mapping[str, str | Path] | None = None,
    simulated: bool | None = None,
) -> Path:
    """Write the report of a run: a single HTML file that needs nothing else.

    What is missing becomes a sentence that names the command that makes it, what is damaged one line that says so.

    Parameters
    ----------
    run : folder of `fusion3d pretrain`
    out : the file to write; None for report.html in the run folder
    store : None for the one that the run's configuration names
    embedding, retrieval, fit, map : outputs of `fusion3d embed`, `evaluate --out`, `fit` and `map`; None for embedding.tif,
        retrieval.json, biomass/ and agb.tif of the run folder, where they are there
    truth : rasters of what is known, by name of the variable ("agb" is compared with the map)
    simulated : whether to say that the data are; None asks the store

    Returns
    -------
    The file.

    Raises
    ------
    InputError
        The run is no folder, a file that was named is not there, or the report cannot be written; nothing is left half-written.
    """
    material = Material.of(
        run, store=store, embedding=embedding, retrieval=retrieval, fit=fit, map=map, truth=truth, simulated=simulated
    )
    out = Path(out) if out is not None else material.run / "report.html"
    if not out.absolute().parent.is_dir():
        raise InputError(out, "cannot be written: its folder does not exist", "create the folder first")
    name = material.run.absolute().name
    made = datetime.now(UTC)
    page = document(
        f"fusion3d report: {name}",
        f"Run {name}, reported on {made:%Y-%m-%d at %H:%M} UTC",
        sections(material),
        simulated=material.simulated,
    )
    return write_whole(out, page)


def sections(material: Material) -> list[Section]:
    """All sections in their order; each stands alone, so that one damaged file costs one section."""
    classes = material.map is not None and is_class_map(material.map)
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("summary", "Summary", lambda: summary_section(material)),
        ("inputs", "What went in", lambda: inputs_section(material.view)),
        ("embedding", "Embedding", lambda: _embedding(material)),
        ("retrieval", "Retrieval across sensors", lambda: _retrieval(material)),
        ("probes", "Frozen probes", lambda: _probes(material)),
        ("robustness", "Missing and disturbed sensors", lambda: _robustness(material)),
        ("losses", "Losses", lambda: losses_section(material.run, PRETRAIN)),
        ("biomass", "Map of classes" if classes else "Biomass map", lambda: _map(material)),
        ("predictions", "Predicted against measured", lambda: _predictions(material)),
        *_class_tasks(material),
        ("validation", "Validation record", lambda: _validation(material)),
        ("method", "Method, for a paper", lambda: method_section(material)),
        ("scene3d", "The place in 3D", lambda: scene_section(material.view, material.embedding)),
        (
            "environment",
            "Environment and configuration",
            lambda: environment_section(material.configuration_text, PRETRAIN),
        ),
    ]
    return [Section(anchor, title, guarded(make)) for anchor, title, make in parts]


def guarded(make: Callable[[], str]) -> str:
    """The body of a section, or one line that says what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Fusion3DError as error:
        return damaged(error)
    except Exception as error:  # damaged files make readers raise anything, and the other sections are still worth reading
        reason = one_line(error)
        return damaged(f"Its files could not be read ({type(error).__name__}: {reason}).")


def _embedding(material: Material) -> str:
    if material.embedding is None:
        return missing("There is no embedding map", EMBED)
    return embedding_section(material.embedding, material.view)


def _retrieval(material: Material) -> str:
    if material.retrieval is None:
        return missing("There are no figures of retrieval", EVALUATE)
    report = read_retrieval(material.retrieval)
    return missing("There are no figures of retrieval", EVALUATE) if report is None else retrieval_tables(report)


def _probes(material: Material) -> str:
    report = None if material.retrieval is None else read_probes(material.retrieval)
    return missing("Nothing was probed for", PROBE) if report is None else probes_section(report)


def _robustness(material: Material) -> str:
    report = None if material.retrieval is None else read_robustness(material.retrieval)
    return missing("Robustness was not measured", ROBUST) if report is None else robustness_section(report)


def _map(material: Material) -> str:
    variable, truth = material.variable, material.map_truth
    rest = {name: path for name, path in material.truth.items() if path != truth and name not in _CLASS_TASKS}
    others = other_truth(rest)
    if material.map is None:
        return missing(f"There is no map of {variable}", MAP) + others
    if is_class_map(material.map):
        return class_map_section(material.map, truth, variable) + others
    unit = material.scorecard.unit if material.scorecard is not None else ""
    return map_section(material.map, truth, variable, unit) + others


def _predictions(material: Material) -> str:
    if material.fit is None:
        return missing("Nothing was fitted to field plots", FIT)
    if is_point_fit(material.fit):
        return point_predictions_section(material.fit)
    return class_predictions_section(material.fit) if is_class_fit(material.fit) else predictions_section(material.fit)


def _validation(material: Material) -> str:
    if material.fit is None or is_class_fit(material.fit) or is_point_fit(material.fit):
        return missing("Nothing continuous was fitted to field plots", FIT)
    product = material.map
    header = None if product is None or is_class_map(product) else facts(product, 1 << 30)
    return validation_section(material.fit, header, data_dates(material, header))


def _class_tasks(material: Material) -> list[tuple[str, str, Callable[[], str]]]:
    """Sections of the classifications and their maps that are in the run folder under the names of their tasks."""
    found: list[tuple[str, str, Callable[[], str]]] = []
    for task, title in _CLASS_TASKS.items():
        drawn, folder = material.run / f"{task}.tif", material.run / task
        if drawn.is_file() and drawn != material.map:
            truth = material.truth.get(task)
            found.append((task, f"{title} map", partial(class_map_section, drawn, truth, task)))
        if (folder / SCORES_FILE).is_file() and folder != material.fit:
            found.append((f"{task}-predictions", f"{title}: predicted against true", partial(class_predictions_section, folder)))
    points = material.run / "segmentation"
    if (points / SCORES_FILE).is_file() and points != material.fit:
        found.append(("segmentation", "Classes of points: predicted against true", partial(point_predictions_section, points)))
    return found

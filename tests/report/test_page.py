from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.report.document import SIMULATED
from fusion3d.report.material import Material
from fusion3d.report.page import write_report
from tests.report.runs import write_everything, write_retrieval, write_run

SECTIONS = (
    "summary", "inputs", "embedding", "retrieval", "probes", "robustness", "losses", "biomass", "predictions",
    "validation", "method", "scene3d", "environment",
)  # fmt: skip


class Page(HTMLParser):
    """A page as a browser's parser sees it: text by section, elements, addresses, pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.unclosed: list[str] = []
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.unclosed.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
            if tag == "section" and name == "id":
                self._section = value
                self.text[value] = ""

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data):
        if self._section:
            self.text[self._section] += data

    @property
    def pictures(self) -> list[Image.Image]:
        return [
            Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
            for address in self.addresses
            if address.startswith("data:image/png;base64,")
        ]


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.unclosed == []
    return page


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    return write_everything(tmp_path_factory.mktemp("everything") / "run")


@pytest.fixture(scope="module")
def report(everything) -> Path:
    return write_report(everything, truth={"agb": everything / "truth_agb.tif"}, simulated=True)


@pytest.fixture
def run(everything, tmp_path) -> Path:
    """A copy to damage, of a run whose store stays where it is."""
    return Path(shutil.copytree(everything, tmp_path / "run"))


def test_page_lies_in_the_run_and_has_every_section_in_order_and_linked(report, everything):
    page = read(report)
    assert report == everything / "report.html"
    assert tuple(page.text) == SECTIONS
    assert [address for address in page.addresses if address.startswith("#")] == [f"#{name}" for name in SECTIONS]
    assert "cannot be shown" not in report.read_text()
    assert "make it with" not in report.read_text()


def test_page_asks_for_nothing_from_a_network(report):
    html, page = report.read_text(), read(report)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\(|@import", html)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.elements)
    assert "default-src 'none'" in html
    assert len(html) < 6e6


def test_pictures_are_whole_and_show_something(report):
    pictures = read(report).pictures
    # timeline, coverage, embedding, probes, four of robustness, losses, maps, scatter, points
    assert len(pictures) == 12
    for picture in pictures:
        assert picture.width >= 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_figures_are_those_of_the_files(report):
    text = read(report).text
    # predictions are the measured values plus 10, plus or minus 5: RMSE sqrt(100 + 25)
    assert "11.2" in text["predictions"]
    assert "60 plots, agb in Mg/ha" in text["predictions"]
    assert "4 folds" in text["predictions"]
    assert "2 plots left out" in text["predictions"]
    # the map is the truth plus 10 everywhere
    assert re.search(r"1 920\s*0\.\d+\s*10\s*10", text["biomass"])
    assert "75.0 % (5.0 %)" in text["retrieval"]
    assert "40 steps" in text["retrieval"]
    assert "2.75" in text["losses"]
    assert "contrast als – s2" in text["losses"]
    assert "25 footprints of good quality, of 26" in text["inputs"]
    assert "2021-06-22" in text["inputs"]
    assert "2021-01-15 to 2021-10-15" in text["inputs"]
    assert "R (660" in text["inputs"]
    assert "1 920" in text["summary"]
    assert "19.2 ha" in text["summary"]
    assert "preset: tiny" in text["environment"]
    assert "torch" in text["environment"]


def test_store_of_a_simulated_scene_is_known_as_such(tmp_path):
    run = write_run(tmp_path / "run", sensors=("coarse",))
    assert SIMULATED not in write_report(run).read_text()
    root = tmp_path / "scene.zarr" / "zarr.json"
    attributes = json.loads(root.read_text())
    attributes["attributes"]["fusion3d"]["configuration"] = {"simulated": True}
    root.write_text(json.dumps(attributes))
    assert Material.of(run).simulated
    assert not Material.of(run, simulated=False).simulated


def test_run_with_nothing_else_says_which_commands_make_the_rest(tmp_path):
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "logs")
    (run / "config.yaml").unlink()
    text = read(write_report(run, store=tmp_path / "scene.zarr")).text
    for section, command in (
        ("embedding", "fusion3d embed RUN STORE"),
        ("retrieval", "fusion3d evaluate RUN STORE"),
        ("probes", "fusion3d evaluate RUN STORE --labels LABELS"),
        ("robustness", "fusion3d evaluate"),
        ("losses", "fusion3d pretrain"),
        ("biomass", "fusion3d map"),
        ("predictions", "fusion3d fit"),
        ("scene3d", "fusion3d embed"),
        ("environment", "fusion3d pretrain"),
    ):
        assert f"make it with {command}" in text[section], section
    assert "canopy" in text["scene3d"]
    assert "cannot be shown" not in "".join(text.values())


def test_fit_of_classes_of_points_has_no_validation_record(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "biomass").mkdir()
    (run / "biomass" / "scores.json").write_text('{"format": "fusion3d point class scores"}')
    write_report(run)
    assert "Nothing continuous was fitted to field plots" in (run / "report.html").read_text(encoding="utf-8")


def test_empty_folder_is_a_run_of_which_nothing_is_known(tmp_path):
    text = read(write_report(tmp_path)).text
    assert tuple(text) == SECTIONS
    assert "give the store with --store" in text["inputs"]


def test_damaged_files_cost_their_own_sections_only(run):
    for name, content in (
        ("retrieval.json", b'{"pairs": ['),
        ("biomass/predictions.csv", b"plot,x\n1,\xff\n"),
        ("agb.tif", b""),
        ("logs/version_0/metrics.csv", b"step,train/loss\nfirst,2\n"),
    ):
        (run / name).write_bytes(content)
    text = read(write_report(run)).text
    assert tuple(text) == SECTIONS
    broken = {name for name, body in text.items() if "cannot be shown" in body}
    assert broken == {"retrieval", "probes", "robustness", "predictions", "validation", "biomass", "losses"}
    for section, name in (
        ("retrieval", "retrieval.json"), ("predictions", "predictions.csv"), ("biomass", "agb.tif"), ("losses", "metrics.csv"),
    ):  # fmt: skip
        assert name in text[section]


def test_damaged_configuration_and_embedding_are_named(run, everything):
    (run / "config.yaml").write_text("data: [unclosed\n")
    (run / "embedding.tif").write_bytes(b"II*\0 not a map")
    text = read(write_report(run, store=everything.parent / "scene.zarr")).text
    assert "data: [unclosed" in text["environment"]
    assert "cannot be shown" not in text["inputs"]
    # points are coloured by the embedding
    for section in ("embedding", "scene3d"):
        assert "embedding.tif" in text[section]
        assert "cannot be shown" in text[section]


def test_store_that_is_gone_leaves_what_needs_no_store(run):
    config = run / "config.yaml"
    config.write_text("data:\n  store: gone.zarr\n")
    text = read(write_report(run)).text
    assert "gone.zarr" in text["inputs"]
    assert "--store" in text["inputs"]
    assert "75.0 %" in text["retrieval"]
    assert "11.2" in text["predictions"]


@pytest.mark.parametrize("part", ["embedding", "retrieval", "fit", "map"])
def test_file_that_was_named_but_is_not_there_is_refused(run, tmp_path, part):
    with pytest.raises(InputError, match=r"none: no such file"):
        write_report(run, tmp_path / "page.html", **{part: tmp_path / "none"})
    with pytest.raises(InputError, match=r"none: no such file"):
        write_report(run, tmp_path / "page.html", truth={"agb": tmp_path / "none"})
    with pytest.raises(Fusion3DError, match="no column store there"):
        write_report(run, tmp_path / "page.html", store=tmp_path / "none")
    assert not (tmp_path / "page.html").exists()


def test_other_names_than_the_usual_are_taken_as_given(everything, tmp_path):
    run = write_run(tmp_path / "run", sensors=("als",))
    text = read(
        write_report(
            run,
            tmp_path / "page.html",
            embedding=everything / "embedding.tif",
            retrieval=everything / "retrieval.json",
            fit=everything / "biomass",
            map=everything / "agb.tif",
        )
    ).text
    assert "make it with" not in "".join(text.values())
    assert "cannot be shown" not in "".join(text.values())
    assert "--truth agb=FILE.tif" in text["biomass"]
    assert "no image with red, green and blue" in text["embedding"]


def test_truth_of_another_variable_is_not_compared_with_the_map(everything, tmp_path):
    (tmp_path / "run").mkdir()
    page = write_report(tmp_path / "run", map=everything / "agb.tif", truth={"cover": everything / "truth_agb.tif"})
    text = read(page).text["biomass"]
    assert "Map against truth" not in text
    assert "Truth of cover" in text


def test_names_from_files_are_shown_but_never_run(tmp_path):
    run = write_run(tmp_path / "run", sensors=("als", "s2"))
    hostile = "<script>alert(1)<script>"
    root = tmp_path / "scene.zarr" / "zarr.json"
    attributes = json.loads(root.read_text())
    layouts = attributes["attributes"]["fusion3d"]["rasters"]
    layouts[hostile] = layouts.pop("s2")
    layouts[hostile]["bands"][0]["name"] = '"><img src=x onerror=alert(1)> $\\frac$'
    root.write_text(json.dumps(attributes))
    (tmp_path / "scene.zarr" / "s2").rename(tmp_path / "scene.zarr" / hostile)
    (run / "config.yaml").write_text(f"</pre><script>alert(1)</script>\ndata: {{store: '{tmp_path / 'scene.zarr'}'}}\n")
    write_retrieval(run / "retrieval.json", ("als", hostile, "<b onclick=x>"))
    page = read(write_report(run, store=tmp_path / "scene.zarr"))
    assert "script" not in page.elements
    assert "b" not in page.elements
    assert not page.handlers
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert hostile in page.text["inputs"]
    assert hostile in page.text["retrieval"]
    assert "cannot be shown" not in page.text["inputs"]


def test_what_is_no_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        write_report(tmp_path / "none")
    with pytest.raises(InputError, match="folder does not exist"):
        write_report(tmp_path, tmp_path / "none" / "report.html")


def test_report_that_cannot_be_finished_leaves_the_one_before(tmp_path, monkeypatch):
    out = write_report(tmp_path)
    before = out.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(tmp_path)
    assert out.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_chromium_shows_every_section_and_every_picture(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,900",
    )  # fmt: skip
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'shot.png'}", "--dump-dom"]
    shown = subprocess.run([*command, report.as_uri()], capture_output=True, text=True, timeout=120)
    page = Page(shown.stdout)
    assert tuple(page.text) == SECTIONS
    assert len(page.pictures) == 12
    if (tmp_path / "shot.png").exists():
        colours = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).reshape(-1, 3)
        # the banner's amber: the style sheet is at work under the page's own policy
        assert (colours == (255, 243, 214)).all(axis=1).mean() > 0.02

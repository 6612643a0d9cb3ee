"""May spconv be used: what is installed, and a self-check that may die, hang, err or lie. None of it needs spconv."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import sparse_conv
from fusion3d.sparse import spconv_convolution, spconv_self_check, spconv_verdict

CPU = torch.device("cpu")


@pytest.fixture
def site(tmp_path):
    """A folder of installed distributions, of names and versions only."""

    def install(**versions: str) -> list[str]:
        for name, version in versions.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        return [str(tmp_path)]

    return install


@pytest.fixture
def verdicts(monkeypatch, tmp_path):
    """No verdict is known, nothing is remembered, and one good build is installed."""
    spconv_verdict._problem.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(spconv_verdict, "install_problem", lambda path=None: "")
    yield tmp_path / "cache"
    spconv_verdict._problem.cache_clear()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_one_cuda_build_is_accepted(site):
    assert spconv_verdict.install_problem(site(spconv_cu126="2.3.8", cumm_cu126="0.7.11", numpy="2.0")) == ""


def test_nothing_installed_names_what_to_install(site):
    found = spconv_verdict.install_problem(site(cumm_cu126="0.7.11"))
    assert found.startswith("spconv is not installed; pip install 'fusion3d[spconv]'")


def test_the_cpu_build_is_refused(site):
    found = spconv_verdict.install_problem(site(spconv="2.3.8", cumm="0.7.11"))
    assert "wrong sums" in found
    assert "pip uninstall -y spconv, then pip install" in found


@pytest.mark.parametrize(
    "builds", [{"spconv": "2.3.8", "spconv_cu126": "2.3.8"}, {"spconv_cu120": "2.3.6", "spconv_cu126": "2.3.8"}]
)
def test_two_builds_at_once_are_refused(site, builds):
    found = spconv_verdict.install_problem(site(**builds))
    names = sorted(name.replace("_", "-") for name in builds)
    assert f"{names[0]} and {names[1]} are installed together" in found
    assert f"pip uninstall -y {names[0]} {names[1]}" in found


@pytest.mark.parametrize("finder", ["importlib.metadata", "importlib_metadata"])
def test_metadata_without_a_name_is_passed_over(site, tmp_path, monkeypatch, finder):
    monkeypatch.setattr(spconv_verdict, "distributions", pytest.importorskip(finder).distributions)
    (tmp_path / "broken-1.dist-info").mkdir()
    assert spconv_verdict.install_problem(site(spconv_cu126="2.3.8")) == ""


@pytest.mark.parametrize("name", ["SIGFPE", "SIGSEGV"])
def test_self_check_that_dies_by_a_signal_is_named(name):
    found = spconv_verdict.self_check(CPU, python(f"import os, signal; os.kill(os.getpid(), signal.{name})"))
    assert found == f"its self-check was ended by {name}"


def test_self_check_that_hangs_is_ended():
    found = spconv_verdict.self_check(CPU, python("import time; time.sleep(60)"), seconds=0.5)
    assert found == "its self-check did not end within 0.5 s"


def test_self_check_that_raises_gives_its_last_line():
    found = spconv_verdict.self_check(CPU, python("raise ImportError('libcudart.so.12: cannot open')"))
    assert found == "its self-check failed (ImportError: libcudart.so.12: cannot open)"


def test_self_check_that_cannot_be_started_is_named(tmp_path):
    assert "could not be started" in spconv_verdict.self_check(CPU, [str(tmp_path / "nothing")])


@pytest.mark.parametrize("said", ["", "hello", "[]", '{"other": 1}'])
def test_self_check_without_a_verdict_does_not_pass(said):
    assert spconv_verdict.self_check(CPU, python(f"print({said!r})")) == "its self-check gave no verdict"


def test_chatter_before_the_verdict_does_not_matter():
    assert spconv_verdict.self_check(CPU, python("print('tuning'); print('{\"problem\": \"\"}')")) == ""


def test_wrong_numbers_are_found_by_the_process():
    code = (
        "import fusion3d.sparse.spconv_convolution as s; from fusion3d.ops import sparse_conv\n"
        "s.convolve = lambda f, w, p: sparse_conv(f, w, p) * 1.001\n"
        "from fusion3d.sparse.spconv_self_check import main; main('cpu')"
    )
    found = spconv_verdict.self_check(CPU, python(code))
    assert found.startswith("submanifold convolution 7 -> 5 in float32 is off by 1.0e-03")


def test_right_numbers_pass(monkeypatch):
    monkeypatch.setattr(spconv_convolution, "convolve", sparse_conv)
    assert spconv_self_check.first_problem(CPU) == ""


class _Wrong(torch.autograd.Function):
    """Right output; one of the gradients is `factor` times too large."""

    @staticmethod
    def forward(ctx, features, weight, factors, pairs):
        ctx.save_for_backward(features, weight)
        ctx.others = factors, pairs
        return sparse_conv(features, weight, pairs)

    @staticmethod
    def backward(ctx, grad):
        (features, weight), (factors, pairs) = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors), ctx.others
        with torch.enable_grad():
            found = torch.autograd.grad(sparse_conv(features, weight, pairs), (features, weight), grad)
        return *(one * factor for one, factor in zip(found, factors)), None, None


@pytest.mark.parametrize("factors", [(1.001, 1), (1, 1.001), (float("nan"), 1), (1, float("inf"))])
def test_either_wrong_gradient_is_found(monkeypatch, factors):
    monkeypatch.setattr(spconv_convolution, "convolve", lambda f, w, p: _Wrong.apply(f, w, factors, p))
    assert "is off by" in spconv_self_check.first_problem(CPU)


def test_a_result_that_is_wrong_now_and_then_is_found(monkeypatch):
    calls = []

    def sometimes(features, weight, pairs):
        calls.append(1)
        return sparse_conv(features, weight, pairs) * (1.01 if len(calls) % 7 == 0 else 1)

    monkeypatch.setattr(spconv_convolution, "convolve", sometimes)
    assert "is off by" in spconv_self_check.first_problem(CPU)


def test_refusal_is_one_line_with_reason_and_remedy(monkeypatch, verdicts):
    monkeypatch.setattr(spconv_verdict, "self_check", lambda device: "its self-check was ended by SIGFPE")
    with pytest.raises(ConfigError) as caught:
        spconv_verdict.require(CPU)
    text = str(caught.value)
    assert text.startswith("spconv cannot be used on cpu: its self-check was ended by SIGFPE; install another build")
    assert text.endswith("take the native sparse backend (FUSION3D_SPARSE_BACKEND=native)")
    assert "\n" not in text


def counting(monkeypatch, problem: str) -> list[torch.device]:
    ran: list[torch.device] = []
    monkeypatch.setattr(spconv_verdict, "self_check", lambda device: ran.append(device) or problem)
    return ran


def test_verdict_is_asked_for_once_a_process(monkeypatch, verdicts):
    ran = counting(monkeypatch, "wrong")
    for _ in range(3):
        with pytest.raises(ConfigError):
            spconv_verdict.require(CPU)
    assert ran == [CPU]


def test_failure_is_tried_again_by_the_next_process_and_a_pass_is_remembered(monkeypatch, verdicts):
    for problem, runs in (("wrong", 1), ("", 1), ("wrong", 0)):
        ran = counting(monkeypatch, problem)
        spconv_verdict._problem.cache_clear()  # as in a new process
        if problem and runs:
            with pytest.raises(ConfigError):
                spconv_verdict.require(CPU)
        else:
            spconv_verdict.require(CPU)
        assert len(ran) == runs
    assert len(list(verdicts.rglob("*.json"))) == 1


@pytest.mark.parametrize("changed", ["torch", "spconv"])
def test_other_versions_are_checked_again(monkeypatch, verdicts, site, changed):
    ran = counting(monkeypatch, "")
    spconv_verdict.require(CPU)
    spconv_verdict._problem.cache_clear()
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        others = spconv_verdict.installed(site(spconv_cu128="9.0"))
        monkeypatch.setattr(spconv_verdict, "installed", lambda path=None: others)
    spconv_verdict.require(CPU)
    assert len(ran) == 2


def test_cache_that_cannot_be_written_or_was_tampered_with_only_costs_a_check(monkeypatch, verdicts):
    ran = counting(monkeypatch, "")
    verdicts.write_text("a file where the folder should be")
    spconv_verdict.require(CPU)
    verdicts.unlink()
    spconv_verdict._problem.cache_clear()
    spconv_verdict.require(CPU)
    (remembered,) = verdicts.rglob("*.json")
    remembered.write_text(json.dumps("something else"))
    spconv_verdict._problem.cache_clear()
    spconv_verdict.require(CPU)
    assert len(ran) == 3
    assert os.listdir(remembered.parent) == [remembered.name]


def test_doctor_says_not_installed_refused_or_passed(monkeypatch, site):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict = {}
    monkeypatch.setattr(spconv_verdict, "installed", lambda path=None: found)
    assert spconv_verdict.describe().startswith("not installed, and not needed")
    found.update(_installed(site(spconv_cu126="2.3.8")))
    monkeypatch.setattr(spconv_verdict, "self_check", lambda device: "")
    assert spconv_verdict.describe().startswith(f"spconv-cu126 2.3.8 passed its self-check on {device}")
    monkeypatch.setattr(spconv_verdict, "self_check", lambda device: "its self-check was ended by SIGFPE")
    assert f"spconv-cu126 2.3.8 refused on {device}: its self-check was ended by SIGFPE; install" in spconv_verdict.describe()
    found.update(_installed(site(spconv="2.3.8")))
    assert spconv_verdict.describe().startswith("refused: spconv and spconv-cu126 are installed together")


def _installed(path):
    from importlib.metadata import distributions

    return {found.metadata["Name"]: found for found in distributions(path=path)}

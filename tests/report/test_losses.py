from __future__ import annotations

import pytest

from fusion3d.errors import InputError
from fusion3d.report.losses import Curve, last_step, losses_section, read_losses
from tests.report.runs import METRICS


def log(run, version, text):
    folder = run / "logs" / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)


def test_each_term_keeps_its_own_steps(tmp_path):
    log(tmp_path, 0, METRICS)
    curves = {curve.name: curve for curve in read_losses(tmp_path)}
    assert curves["train/loss"] == Curve("train/loss", (0, 1, 2, 3), (6.5, 5.25, 4.0, 2.75))
    assert curves["val/contrast_als-s2"] == Curve("val/contrast_als-s2", (1, 3), (5.0, 4.0))
    assert "step" not in curves
    assert last_step(list(curves.values())) == 4


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path):
    log(tmp_path, 0, "step,train/loss,train/old\n0,9,1\n1,8,1\n2,7,1\n")
    log(tmp_path, 10, "step,train/loss\n3,1.0\n")
    log(tmp_path, 2, "step,train/loss\n1,5\n2,4\n3,3\n")
    curves = read_losses(tmp_path)
    assert curves == [Curve("train/loss", (0, 1, 2, 3), (9.0, 5.0, 4.0, 1.0)), Curve("train/old", (0,), (1.0,))]


def test_run_without_a_log_says_how_to_make_one(tmp_path):
    assert read_losses(tmp_path) == []
    log(tmp_path, 0, "")
    assert read_losses(tmp_path) == []
    assert "fusion3d pretrain" in losses_section(tmp_path, "fusion3d pretrain")


def test_log_of_tensorboard_alone_is_read(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "logs" / "version_0")) as writer:
        writer.add_scalar("train/loss", 2.5, 0)
        writer.add_scalar("train/loss", 1.5, 10)
        writer.add_scalar("hp_metric", -1, 0)
    assert read_losses(tmp_path) == [Curve("train/loss", (0, 10), (2.5, 1.5))]


@pytest.mark.parametrize("text", ["step,train/loss\nx,1\n", "step,train/loss\n1,much\n", "train/loss\n1\n"])
def test_damaged_log_is_named(tmp_path, text):
    log(tmp_path, 0, text)
    with pytest.raises(InputError, match=r"metrics\.csv"):
        read_losses(tmp_path)


def test_one_logged_step_and_values_that_are_no_number_are_drawn(tmp_path):
    log(tmp_path, 0, "step,train/loss,train/contrast_als-tall_one\n9,nan,3.0\n")
    body = losses_section(tmp_path, "")
    assert "contrast als – tall_one" in body
    assert "data:image/png" in body


def test_many_pairs_are_told_apart(tmp_path):
    names = [f"train/contrast_a-{number}" for number in range(30)]
    log(tmp_path, 0, ",".join(["step", *names]) + "\n" + "\n".join(f"{step}" + ",1.5" * 30 for step in range(2)) + "\n")
    assert losses_section(tmp_path, "").count("<tr>") == 31

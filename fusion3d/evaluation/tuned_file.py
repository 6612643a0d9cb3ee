"""Encoders that were trained on labels, as a checkpoint that `fusion3d embed` opens: with the heads beside their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion3d.errors import InputError, one_line
from fusion3d.evaluation.supervised import SupervisedModel

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

_KEY = "fusion3d_answers"
_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "hparams_name", "hyper_parameters", "datamodule_hparams_name",
         "datamodule_hyper_parameters", "encoders")  # fmt: skip


def write_tuned(model: SupervisedModel, target: str, pretrained: Path, path: Path) -> Path:
    """Write the checkpoint that the encoders came from with their new weights, and the heads; whole or not at all.

    Parameters
    ----------
    target : name of what the heads answer
    pretrained : .ckpt
    """
    import torch

    from fusion3d.io.whole_file import whole_file

    data: dict[str, Any] = torch.load(pretrained, map_location="cpu", weights_only=True)
    kept = {name: data[name] for name in _KEPT if name in data}
    kept["state_dict"] = {name: value.cpu() for name, value in model.module.state_dict().items()}
    heads = {name: value.cpu() for name, value in model.heads.state_dict().items()}
    kept[_KEY] = {"target": target, "sensors": model.names, "centre": model.centre, "scale": model.scale, "heads": heads}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, RuntimeError) as draft:
        torch.save(kept, draft)
    return path


def read_answers(checkpoint: Path, module: CrossModalPretraining) -> tuple[str, SupervisedModel] | None:
    """Target and model of a fine-tuned checkpoint, over its module as it was loaded; None for one of pretraining alone.

    Raises
    ------
    InputError
        The heads are damaged or are not of the encoders.
    """
    import torch

    answers = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get(_KEY)
    if answers is None:
        return None
    try:
        names = [str(name) for name in answers["sensors"]]
        model = SupervisedModel(module, names, None, float(answers["centre"]), float(answers["scale"]))
        model.heads.load_state_dict(answers["heads"])
        return str(answers["target"]), model.to(module.device).eval()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = one_line(error)
        raise InputError(checkpoint, f"its heads are damaged ({type(error).__name__}: {reason})", "fine-tune again") from None


def answer_band(target: str) -> str:
    """Name of the band of a map of answers."""
    return f"{target}_answer"

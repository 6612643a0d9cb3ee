"""How a checkpoint is opened to be used, for maps and for evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusion3d.errors import ConfigError, InputError, one_line

if TYPE_CHECKING:
    import torch

    from fusion3d.pretraining.module import CrossModalPretraining
    from fusion3d.store import Store


def load_pretraining(checkpoint: str | Path, device: str = "auto", *, untrained: bool = False) -> CrossModalPretraining:
    """The module of a checkpoint, ready to embed; `trained_steps` on it tells how long it was trained.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    device : cpu, cuda (cuda:N), or auto: cuda where there is one
    untrained : its architecture with the weights that its training began with

    Raises
    ------
    InputError
        There is no checkpoint, or it is not one of `fusion3d pretrain`, or of a version that this one cannot read.
    ConfigError
        There is no such device.
    """
    from fusion3d.pretraining.checkpoint_file import REMEDY_OF_VERSIONS, encoders_of, read_checkpoint
    from fusion3d.pretraining.module import CrossModalPretraining

    where = device_named(device)
    path = checkpoint_file(checkpoint)
    held = read_checkpoint(path)
    recorded = encoders_of(path, held)
    try:
        steps = int(held["global_step"])
        module = CrossModalPretraining(**held["hyper_parameters"])
        module.recorded_encoders = recorded
        module.configure_model()
        module.on_load_checkpoint(held)
        if not untrained:
            module.load_state_dict(held["state_dict"])
    except Exception as error:  # hyperparameters and weights that do not fit raise anything
        what = f"does not fit this version of fusion3d ({type(error).__name__}: {one_line(error)})"
        raise InputError(path, what, REMEDY_OF_VERSIONS) from None
    module.trained_steps = 0 if untrained else steps
    return module.eval().to(where)


def checkpoint_file(checkpoint: str | Path) -> Path:
    """The .ckpt of a path to one, or to a run folder."""
    from fusion3d.pretraining.callbacks import last_checkpoint

    path = Path(checkpoint)
    return last_checkpoint(path) if path.is_dir() else path


def device_named(name: str) -> torch.device:
    """The device of a `--device`; ConfigError where there is none."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name} is not a device; give cpu, cuda or auto") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"--device {name}: there is no such CUDA device here; give cpu or auto")
    return device


def choose_sensors(module: CrossModalPretraining, store: Store, wanted: Sequence[str] | None) -> list[str]:
    """Names of the sensors to use, in the store's order.

    Raises
    ------
    ConfigError
        A wanted one is not in the checkpoint or not in the store, none is in both, or their voxels differ.
    """
    known, held = list(module.sensors), list(store.sensors)
    for name in wanted or ():
        if name not in known:
            raise ConfigError(f"the checkpoint has no encoder for sensor {name!r}; it has {', '.join(known)}")
        if name not in held:
            raise ConfigError(f"the store {store.path} has no sensor {name!r}; it has {', '.join(held) or 'none'}")
    names = [name for name in held if name in known and (wanted is None or name in wanted)]
    if not names:
        raise ConfigError(f"no sensor is in both: the checkpoint has {', '.join(known)}, the store {', '.join(held) or 'none'}")
    voxel = module.hparams["scene"]["voxel"]
    if "als" in names and abs(store.grid.voxel - voxel) > 1e-9:
        raise ConfigError(
            f"the als encoder was trained on voxels of {voxel:g} m, the store has {store.grid.voxel:g} m; "
            f"prepare it with --voxel {voxel:g}"
        )
    return names

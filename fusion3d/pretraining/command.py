"""`fusion3d pretrain`: a run directory with resolved configuration, logs, checkpoint and encoders."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from fusion3d.data.datamodule import ChipDataModule
from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.pretraining.alignment import ALIGNMENTS, alignment_class
from fusion3d.pretraining.callbacks import (
    AtomicCheckpointIO,
    ConfigurationFile,
    StepProgressBar,
    checkpoint_every,
    config_file,
    last_checkpoint,
)
from fusion3d.pretraining.checkpoint_file import encoders_of, read_checkpoint
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.option_texts import describe_options
from fusion3d.pretraining.sharding import check_strategy

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 1000,
    "max_epochs": -1,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "val_check_interval": 100,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}

_SHORT = {"--memory-budget": "--model.memory_budget"}


class PretrainCLI(LightningCLI):
    """Parser of the command; classes are built by `main` after the run directory is checked."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs/pretrain", help="Folder of the run.")
        parser.add_argument("--resume", action="store_true", help="Go on from the run's last checkpoint, also after a kill.")
        parser.add_argument("--checkpoint_every", type=int, default=100, help="Steps between checkpoints.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments(("model.pairs", "model.alignment"), "data.pairs", compute_fn=pairs_to_read)
        parser.link_arguments("model.pair_weights", "data.pair_weights")
        describe_options(parser, {"model": CrossModalPretraining, "data": ChipDataModule})

    def before_instantiate_classes(self) -> None:
        self.run = Path(self.config["out"])
        self.checkpoint = check_run(self.run, self.config["resume"])
        if self.config["checkpoint_every"] < 1:
            raise ConfigError(f"--checkpoint_every {self.config['checkpoint_every']} must be at least 1 step")
        if self.config["trainer"]["max_steps"] < 1:
            raise ConfigError("say how long to train: --trainer.max_steps N")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        run, wanted = self.run, self.config_init["trainer"]
        options.setdefault("default_root_dir", str(run))
        check_strategy(wanted.get("strategy"))
        if wanted.get("precision") is None:
            options["precision"] = precision(wanted.get("accelerator"))
        if wanted.get("logger") is None:
            csv = CSVLogger(run, name="logs")
            options["logger"] = [csv, TensorBoardLogger(run, name="logs", version=csv.version)]
        text = self.parser.dump(self.config, skip_unset=False)
        callbacks = [
            *_listed(wanted.get("callbacks")),
            ConfigurationFile(config_file(run), text),
            checkpoint_every(run, self.config["checkpoint_every"]),
        ]
        if wanted.get("enable_progress_bar") is not False:
            callbacks.append(StepProgressBar())
        plugins = [*_listed(wanted.get("plugins")), AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(callbacks=callbacks, plugins=plugins, **options)
        if isinstance(trainer.strategy, DDPStrategy):
            # Encoders of sensors that were not drawn do not run; plain `ddp` would wait for their gradients.
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        return trainer


def pairs_to_read(pairs: int, alignment: str) -> int | None:
    """Pairs whose sensors a batch is read for; None reads all sensors, for ways of aligning that look at all of them."""
    # A name that is not known is refused by the model, with the names there are.
    return None if alignment in ALIGNMENTS and alignment_class(alignment).every_sensor else pairs


def main(args: list[str]) -> int:
    """Run the command with its arguments, without the program's name.

    Raises
    ------
    Fusion3DError
        The options, the store or the run directory do not allow it.
    """
    with warnings.catch_warnings():
        _quiet()
        cli = _parsed(args)
        if cli.checkpoint is not None:
            go_on_from(cli.checkpoint, cli.model)
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)
    if cli.trainer.interrupted:
        if cli.trainer.is_global_zero:
            text = f"stopped at step {cli.trainer.global_step}; the same command with --resume goes on from"
            print(text, last_checkpoint(cli.run), file=sys.stderr)
        return 130
    _finish(cli)
    return 0


def _parsed(args: list[str]) -> PretrainCLI:
    try:
        return PretrainCLI(
            CrossModalPretraining,
            ChipDataModule,
            args=[_long(argument) for argument in args],
            run=False,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "prog": "fusion3d pretrain",
                "description": main_description(),
                "epilog": short_options(),
                "dump_header": [],
                "exit_on_error": False,
            },
        )
    except ArgumentError as error:
        raise ConfigError(f"{' '.join(str(error).split())}; `fusion3d pretrain --help` lists the options") from None


def main_description() -> str:
    """First line of `fusion3d pretrain --help`."""
    return "Pretrain encoders by aligning what different sensors say of the same place."


def short_options() -> str:
    """Last line of `fusion3d pretrain --help`."""
    return "Short: " + ", ".join(f"{short} for {long}" for short, long in _SHORT.items()) + ", for instance --memory-budget 6GiB."


def check_run(run: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, None for a new run.

    Raises
    ------
    InputError
        A run is there and `resume` was not asked for, or the folder is a file.
    """
    last = last_checkpoint(run)
    if run.exists() and not run.is_dir():
        raise InputError(run, "a file, not a folder", "give another --out")
    if resume:
        # A run that was killed before its first checkpoint begins anew; it is the same run.
        return last if last.exists() else None
    if last.exists() or config_file(run).exists():
        raise InputError(run, "a pretraining run is already there", "continue it with --resume, or give another --out")
    return None


def go_on_from(path: Path, model: CrossModalPretraining) -> None:
    """Have a model build the encoders of a checkpoint, whatever their preset says by now.

    Raises
    ------
    InputError
        It is not a checkpoint, or its encoders cannot be made.
    ConfigError
        Other encoders are asked for.
    """
    held = read_checkpoint(path)
    model.recorded_encoders = encoders_of(path, held)
    for name in ("preset", "encoder_options"):
        before, now = (_plain(given.get(name)) for given in (held["hyper_parameters"], model.hparams))
        if before != now:
            raise ConfigError(
                f"--model.{name} {one_line(now)} is not that of {path}, {one_line(before)}; "
                "resume with the same, or begin another run with another --out"
            )


def _plain(options: Any) -> str:
    """Options as text that can be compared, whatever their order; without those of nothing."""
    named = {sensor: given for sensor, given in options.items() if given} if isinstance(options, dict) else options
    return json.dumps(named or None, sort_keys=True, default=str)


def precision(accelerator: Any) -> str:
    """bf16-mixed on a CUDA GPU that computes in it, else float32."""
    wants_gpu = accelerator in (None, "auto", "gpu", "cuda")
    return "bf16-mixed" if wants_gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def _finish(cli: PretrainCLI) -> None:
    """Write the last checkpoint and each encoder alone, and say where."""
    from fusion3d.encoders.checkpoint import save_encoder

    path = last_checkpoint(cli.run)
    cli.trainer.save_checkpoint(path, weights_only=False)
    weights = cli.trainer.strategy.lightning_module_state_dict()  # every process takes part where they are sharded
    if not cli.trainer.is_global_zero:
        return
    folder = cli.run / "encoders"
    folder.mkdir(exist_ok=True)
    for sensor, encoder in cli.model.encoders.items():
        start = f"encoders.{sensor}."
        own = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        save_encoder(encoder, folder / f"{sensor}.safetensors", own)
    print(f"{cli.trainer.global_step} steps, sensors {', '.join(cli.model.sensors)}: checkpoint {path}, encoders in {folder}")


def _long(argument: str) -> str:
    """The long name of an option that has a short one."""
    name, equals, value = argument.partition("=")
    return f"{_SHORT.get(name, name)}{equals}{value}"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _quiet() -> None:
    """Silence advice that does not apply: batches are endless and resumable, and arguments are passed on purpose."""
    for text in (
        ".*LightningCLI's args parameter.*",
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",
        ".*ended before the epoch ended.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*dirpath has changed.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Total length of .list. across ranks is zero.*",
        ".*overridden `transfer_batch_to_device`.*",
        ".*sync_dist=True.*",  # every process validates the same chips
    ):
        warnings.filterwarnings("ignore", text)
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)

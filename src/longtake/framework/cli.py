"""Command line (CLI): ``longtake predict --config long.yaml``."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS
from functools import partial
from inspect import signature
from typing import Any, final

import torch
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from longtake import __version__
from longtake.commands import DESCRIPTION, NAME
from longtake.errors import ConfigurationError, LongtakeError
from longtake.framework.callbacks import VideoWriter
from longtake.framework.console.config_files import check_groups
from longtake.framework.console.messages import explain
from longtake.framework.console.nulls import check_nulls
from longtake.framework.console.parser import OneSentenceParser, OptionMistake
from longtake.framework.console.resume import resume_arguments
from longtake.framework.console.run_options import add_run_options
from longtake.framework.console.trust import HELP, check_classes, restrict
from longtake.framework.data import PromptData
from longtake.framework.module import VideoModule
from longtake.framework.run_start import RunStart
from longtake.framework.trainer import InferenceTrainer
from longtake.models.trust import plugins_allowed
from longtake.plan.cost.profiles import match_name

PLANNED_FOR = "H100"
"""The profile of plans for GPUs that are not here, where none is named."""
LORA = "--model.lora"
ALONE = ("models", "configs", "methods", "strategies", "convert", "doctor", "calibrate", "verify")
"""Commands that take no model, no data and no devices."""


@final
class LongtakeCLI(LightningCLI):
    """Builds the parser from the classes' signatures and docstrings, and runs a subcommand."""

    trainer: InferenceTrainer
    model: VideoModule
    datamodule: PromptData
    _start: RunStart | None = None
    _planned_for: str = "auto"

    def __init__(self, args: list[str]) -> None:
        restrict(plugins=plugins_allowed(os.environ))
        args = gathered(resume_arguments(args))
        self._asked = next(iter(args), "")
        try:
            super().__init__(
                VideoModule,
                PromptData,
                trainer_class=InferenceTrainer,
                save_config_callback=None,
                seed_everything_default=False,
                parser_class=OneSentenceParser,
                parser_kwargs={
                    "prog": NAME,
                    "version": __version__,
                    "description": DESCRIPTION,
                },
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )
        finally:
            self._release()

    @override
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's methods that are commands, with what the CLI itself passes them."""
        run = {"model", "datamodule"}
        alone: dict[str, set[str]] = {name: set() for name in ALONE}
        return {"predict": run, "plan": run, **alone}

    @override
    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = self.init_parser(**kwargs)
        if self._asked in self.subcommands() and subcommand != self._asked:
            return parser  # which nobody will ask: a command's options take time to put together
        if subcommand not in ALONE:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # No model, no data, no devices.
        self.add_default_arguments_to_parser(parser)
        parser.add_method_arguments(klass, subcommand, as_group=False, as_positional=True)
        return parser

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what the parser does not expect in a file or an option is a user's mistake."""
        try:
            super().parse_arguments(parser, args)
        except OptionMistake as mistake:
            raise ConfigurationError(mistake.sentence) from mistake
        except LongtakeError:
            raise
        except Exception as error:  # of any class: nothing but the reading of options happens here
            said = explain(f"{type(error).__name__}: {error}", ())
            raise ConfigurationError(f"the options cannot be read: {said}") from error

    @override
    def _set_seed(self) -> None:
        """Refuse Lightning's seed of the whole process: here each video has its own."""
        given = self._get(self.config, "seed_everything", False)
        if given is not False:
            raise ConfigurationError(
                f"seed_everything is {str(given)[:80]}, but each video has a seed of its own here: "
                f"data.seed."
            )

    @override
    def before_instantiate_classes(self) -> None:
        """Do what takes no devices; keep a plan's trainer from looking for those it plans for."""
        config = self.config.get(self.subcommand)
        check_classes(config)
        if self.subcommand in ALONE:
            command = getattr(InferenceTrainer, self.subcommand)
            command(**{name: config[name] for name in signature(command).parameters})
            raise SystemExit(0)
        check_groups(config)
        check_nulls(self._parser(self.subcommand), config)
        if self.subcommand != "plan":
            return
        asked, config.trainer.accelerator = config.trainer.accelerator, "cpu"
        self._planned_for = asked
        here = match_name(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        if config.profile is None and asked != "cpu":
            config.profile = here
        if config.profile is None and asked == "cuda":
            config.profile = PLANNED_FOR
            sys.stderr.write(
                f"longtake: warning: this machine has no GPU that is known, so the plan is for "
                f"{PLANNED_FOR}; --profile names others.\n"
            )

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Seeds are per request (data.seed); Lightning still looks the global one up.
        parser.add_argument("--seed_everything", default=False, help=SUPPRESS)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run-wide switches."""
        parser.epilog = HELP
        add_run_options(parser)
        parser.add_lightning_class_args(VideoWriter, "video")

    def _release(self) -> None:
        if self._start is not None:
            self._start.release()

    def before_plan(self) -> None:
        """Take the plan file that was given."""
        self.trainer.follow(self.config.plan.plan)
        config = self.config.plan.clone()
        config.trainer.accelerator = self._planned_for
        self.trainer.planned_config = yaml.safe_load(
            self._parser(self.subcommand).dump(config, skip_default=True)
        )

    def before_predict(self) -> None:
        """Check the output and everything else, then put the output callbacks in place."""
        self._start = self.run_start()
        self._start.prepare()

    def run_start(self) -> RunStart:
        """Return the start of the run that the options describe."""
        return RunStart(
            self.trainer,
            self.model,
            self.datamodule,
            self.config.predict,
            self.config_init.predict.video,
            partial(self._parser(self.subcommand).dump, skip_unset=False),
        )


def gathered(args: list[str]) -> list[str]:
    """Make a repeated ``--model.lora`` add to a list, where each would replace the one before."""
    found: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        again = name == LORA and any(before.partition("=")[0] == LORA for before in found)
        found.append(f"{name}+{equals}{value}" if again else arg)
    return found

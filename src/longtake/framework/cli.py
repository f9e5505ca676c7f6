"""Command line (CLI): ``longtake predict --config long.yaml``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Literal, final

import torch
import torch.distributed as dist
import transformers
from huggingface_hub.utils.tqdm import enable_progress_bars
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from longtake import __version__
from longtake.comm.launchers import is_first_here
from longtake.commands import DESCRIPTION, NAME
from longtake.errors import LongtakeError, RankFailure
from longtake.framework.callbacks import (
    LatentWriter,
    ReportWriter,
    TimelineWriter,
    VideoWriter,
    progress_callback,
)
from longtake.framework.console.messages import one_line
from longtake.framework.console.parser import OneSentenceParser
from longtake.framework.data import PromptData
from longtake.framework.engine.journal import KeepLatents
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_folder import CONFIG_HEADER, LAST_ACTIONS, RunFolder
from longtake.framework.engine.settings import settled_options
from longtake.framework.launch.processes import leave
from longtake.framework.module import Generator
from longtake.framework.trainer import InferenceTrainer
from longtake.plan.cost.profiles import match_name

PLANNED_FOR = "H100"
"""The profile of plans for GPUs that are not here, where none is named."""
LORA = "--model.lora"
WITHOUT_MODEL = ("models", "convert")
"""Commands that have no options but their own."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as the shell has it."""


@final
class LongtakeCLI(LightningCLI):
    """Builds the parser from the classes' signatures and docstrings, and runs a subcommand."""

    trainer: InferenceTrainer
    model: Generator
    datamodule: PromptData

    def __init__(self, args: ArgsType = None) -> None:
        self._folder: RunFolder | None = None
        try:
            super().__init__(
                Generator,
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
                args=gathered(sys.argv[1:] if args is None else args),
            )
        finally:
            if self._folder is not None:
                self._folder.release()

    @override
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's methods that are commands, with what the CLI itself passes them."""
        run = {"model", "datamodule"}
        return {"predict": run, "plan": run, "models": set(), "convert": set()}

    @override
    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        if subcommand not in WITHOUT_MODEL:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser = self.init_parser(**kwargs)  # no model, no data, no devices
        self.add_default_arguments_to_parser(parser)
        parser.add_method_arguments(klass, subcommand, as_group=False, as_positional=True)
        return parser

    @override
    def before_instantiate_classes(self) -> None:
        """Run what needs no model; keep a plan's trainer from looking for its devices."""
        if self.subcommand == "models":
            InferenceTrainer.models()
            raise SystemExit(0)
        if self.subcommand == "convert":
            given = self.config.convert
            InferenceTrainer.convert(given.file, given.output, given.key)
            raise SystemExit(0)
        if self.subcommand != "plan":
            return
        config = self.config.plan
        asked, config.trainer.accelerator = config.trainer.accelerator, "cpu"
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
        parser.add_argument(
            "--output",
            type=Path,
            default=Path("out"),
            help="Folder that the run writes into: 0000/video.mp4 and so on per request, "
            "config.yaml, report.json.",
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Replace an earlier run in --output."
        )
        parser.add_argument(
            "--keep_latents",
            type=KeepLatents,
            default="none",
            help="Which finished blocks' latents stay in 0000/latents/<block>.safetensors when a "
            "video is finished: all, none, or tail, those of its last 8 latent frames. Until then "
            "all are kept, so that the run can be resumed.",
        )
        parser.add_argument(
            "--progress",
            type=Literal["auto", "none", "plain", "rich"],
            default="auto",
            help="How to show progress: rich on a terminal, plain lines of key=value elsewhere.",
        )
        parser.add_argument(
            "--timeline",
            type=bool,
            default=False,
            help="Write what every rank did when: 0000/timeline.svg and 0000/timeline.txt.",
        )
        parser.add_argument(
            "--plan",
            type=Path | None,
            default=None,
            help="Do what this file says, every rank's actions one after another, in place of what "
            "the strategy would: longtake plan --actions FILE writes such a file.",
        )
        parser.add_lightning_class_args(VideoWriter, "video")

    def before_plan(self) -> None:
        """Take the plan file that was given."""
        self.trainer.follow(self.config.plan.plan)

    def before_predict(self) -> None:
        """Check the output and everything else, then put the output callbacks in place.

        Only the first rank of all looks at the output folder: others may be on machines that do
        not see it, or come when it is no longer empty.
        """
        config = self.config.predict
        self.trainer.follow(config.plan)
        folder = RunFolder(config.output, overwrite=config.overwrite)
        if self.trainer.is_global_zero:
            folder.check()
        engine = self.trainer.prepare(self.model, self.datamodule)
        for request in self.datamodule.requests():
            self.config_init.predict.video.check(request)
        ranks = lambda: engine.communicator  # noqa: E731
        timeline = [TimelineWriter(folder, ranks)] if config.timeline else []
        if not self.trainer.is_global_zero:
            self.trainer.attach([*timeline])
            return
        for warning in engine.chosen.warnings():
            sys.stderr.write(f"longtake: warning: {warning}\n")
        self._folder = folder
        folder.create()
        self.trainer.keep_last_actions(folder.path / LAST_ACTIONS)
        folder.write_text("config.yaml", self.dump_config(engine.model))
        self.config_init.predict.video.bind(folder, engine.timings)
        self.trainer.attach(
            [
                LatentWriter(folder, engine.timings, keep=config.keep_latents),
                progress_callback(config.progress),
                ReportWriter(folder, engine.timings, config.progress, engine.workloads, ranks),
                *timeline,
            ]
        )

    def dump_config(self, model: ResolvedModel) -> str:
        """Return the resolved configuration as YAML that ``--config`` takes.

        With the model's own settings where the user has left them out, so that a rerun makes the
        same video whatever a later version takes. Without ``overwrite``: who runs it again has not
        asked for that.
        """
        config = self.config.predict.clone()
        config.overwrite = False
        for name, value in settled_options(model.settings).items():
            config.model[name] = value
        config.model.flow_shift = model.fixed_flow_shift
        if model.folder.revision is not None:  # the commit of a hub model
            config.model.revision = model.folder.revision
        for name, value in self.datamodule.settled.items():
            config.data[name] = value
        dumped = self._parser(self.subcommand).dump(config, skip_unset=False)
        return f"{CONFIG_HEADER} {__version__}\n{dumped}"


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Exit status: 0 when all is made (or an endless video was ended with Ctrl-C), 1 when a rank has
    failed, 2 for a mistake of the user's, 130 when Ctrl-C or SIGTERM left something unmade.

    Args:
        args: Arguments; ``None`` for those of the process.
    """
    quiet()
    try:
        status = run(args)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except LongtakeError as error:
        status = 1 if isinstance(error, RankFailure) else 2
        if dist.is_initialized() or is_first_here(os.environ):
            sys.stderr.write(f"longtake: error: {one_line(str(error))}\n")
    except Exception:
        if not dist.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if dist.is_initialized():
        leave(status)  # the ranks have not parted in good order: threads may hang in the transport
    if status:
        raise SystemExit(status)


def run(args: list[str] | None) -> int:
    """Run a subcommand, and return its exit status."""
    cli = LongtakeCLI(args)
    cli.trainer.join()
    return INTERRUPTED if cli.model.cut_short else 0


def gathered(args: ArgsType) -> ArgsType:
    """Make a repeated ``--model.lora`` add to a list, where each would replace the one before."""
    if not isinstance(args, list):
        return args
    found: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        again = name == LORA and any(before.partition("=")[0] == LORA for before in found)
        found.append(f"{name}+{equals}{value}" if again else arg)
    return found


def quiet() -> None:
    """Silence what libraries say about hardware that is not there and progress that is ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    enable_progress_bars()  # transformers has switched off those of downloads as well
    for name in ("lightning.pytorch", "lightning.fabric", "diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|diffusers|transformers|torch)\b.*")

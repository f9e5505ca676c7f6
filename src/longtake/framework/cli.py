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
from longtake.errors import ConfigurationError, LongtakeError, OutputError, RankFailure
from longtake.framework.callbacks import (
    LatentWriter,
    ReportWriter,
    TimelineWriter,
    VideoWriter,
    progress_callback,
)
from longtake.framework.console.config_files import check_files, check_groups
from longtake.framework.console.messages import explain, one_line
from longtake.framework.console.nulls import check_nulls
from longtake.framework.console.parser import OneSentenceParser
from longtake.framework.console.trust import HELP, check_classes, restrict, taken
from longtake.framework.data import PromptData
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_folder import CONFIG_HEADER, LAST_ACTIONS, RunFolder
from longtake.framework.engine.settings import settled_options
from longtake.framework.launch.processes import leave
from longtake.framework.module import Generator
from longtake.framework.trainer import InferenceTrainer
from longtake.models.trust import plugins_allowed
from longtake.plan.cost.profiles import match_name

PLANNED_FOR = "H100"
"""The profile of plans for GPUs that are not here, where none is named."""
LORA = "--model.lora"
WITHOUT_MODEL = ("models", "convert")
"""Commands that have no options but their own."""
TRACEBACK = "LONGTAKE_TRACEBACK"
"""The variable that has the way to an error printed as well, for those who write plug-ins."""
_SHOWN = 200
"""Characters of a file's name that are shown."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as the shell has it."""


@final
class LongtakeCLI(LightningCLI):
    """Builds the parser from the classes' signatures and docstrings, and runs a subcommand."""

    trainer: InferenceTrainer
    model: Generator
    datamodule: PromptData

    def __init__(self, args: list[str]) -> None:
        restrict(plugins=plugins_allowed(os.environ))
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
            args=gathered(args),
        )

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
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what the parser does not expect in a file or an option is a user's mistake."""
        try:
            super().parse_arguments(parser, args)
        except LongtakeError:
            raise
        except Exception as error:  # of any class: nothing but the reading of options happens here
            said = explain(f"{type(error).__name__}: {error}", ())
            raise ConfigurationError(f"the options cannot be read: {said}") from error

    @override
    def before_instantiate_classes(self) -> None:
        """Run what needs no model; keep a plan's trainer from looking for its devices."""
        config = self.config.get(self.subcommand)
        check_classes(config)
        if self.subcommand == "models":
            InferenceTrainer.models()
            raise SystemExit(0)
        if self.subcommand == "convert":
            given = self.config.convert
            InferenceTrainer.convert(given.file, given.output, given.key)
            raise SystemExit(0)
        check_groups(config)
        check_nulls(self._parser(self.subcommand), config)
        if self.subcommand != "plan":
            return
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
        parser.epilog = HELP
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
            type=Literal["all", "none"],
            default="none",
            help="Write each finished block's latents to 0000/latents/<block>.safetensors.",
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
        folder.create()
        self.trainer.keep_last_actions(folder.path / LAST_ACTIONS)
        folder.write_text("config.yaml", self.dump_config(engine.model))
        self.config_init.predict.video.bind(folder, engine.timings, engine.model.folder.name)
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
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        status = 1 if isinstance(error, RankFailure) else 2
        if dist.is_initialized() or is_first_here(os.environ):
            sys.stderr.write(f"longtake: error: {one_line(str(error))} [{error.code}]\n")
    except Exception as error:
        if not dist.is_initialized():
            _say_what_the_machine_refuses(error)
            raise
        traceback.print_exc()
        status = 1
    if dist.is_initialized():
        leave(status)  # the ranks have not parted in good order: threads may hang in the transport
    if status:
        raise SystemExit(status)


def _say_what_the_machine_refuses(error: Exception) -> None:
    """End with a sentence where a file or the memory is at fault, and not longtake."""
    match error:
        case OSError(strerror=str(why)):
            name = "" if error.filename is None else f" {str(error.filename)[:_SHOWN]!r}"
            said = f"the machine refuses a file{name}: {why}"
        case MemoryError():
            said = "this needs more memory than there is"
        case _:
            return
    if is_first_here(os.environ):
        sys.stderr.write(f"longtake: error: {said}. [{OutputError.code}]\n")
    raise SystemExit(2) from error


def run(args: list[str] | None) -> int:
    """Run a subcommand, and return its exit status."""
    args = ordered(taken(sys.argv[1:] if args is None else args, os.environ))
    check_files(args)
    cli = LongtakeCLI(args)
    cli.trainer.join()
    return INTERRUPTED if cli.model.cut_short else 0


def ordered(args: list[str]) -> list[str]:
    """Put the command before its ``--config``, where that came first."""
    for place, arg in enumerate(args):
        if arg in LongtakeCLI.subcommands():
            before = args[:place]
            files = bool(before) and before[0].partition("=")[0] in ("--config", "-c")
            return [arg, *before, *args[place + 1 :]] if files else args
    return args


def gathered(args: list[str]) -> list[str]:
    """Make a repeated ``--model.lora`` add to a list, where each would replace the one before."""
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

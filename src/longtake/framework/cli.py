"""Command line (CLI): ``longtake predict --config long.yaml``."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, final

import torch
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from longtake import __version__
from longtake.commands import DESCRIPTION, NAME
from longtake.errors import ConfigurationError, LongtakeError, OutputError
from longtake.framework.callbacks import (
    LatentWriter,
    ReportWriter,
    TimelineWriter,
    VideoWriter,
    progress_callback,
)
from longtake.framework.console.config_files import check_groups
from longtake.framework.console.extend import RunGrowth
from longtake.framework.console.messages import explain
from longtake.framework.console.nulls import check_nulls
from longtake.framework.console.parser import OneSentenceParser, OptionMistake
from longtake.framework.console.rerun import differences
from longtake.framework.console.resume import (
    AUTO,
    FILES,
    absolute,
    absolute_lora,
    resume_arguments,
)
from longtake.framework.console.run_options import add_run_options
from longtake.framework.console.trust import HELP, check_classes, restrict
from longtake.framework.data import PromptData
from longtake.framework.engine.disk import check_disk
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.frame_rate import written
from longtake.framework.engine.inputs import earlier_inputs, inputs_of
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import RunKeeper, touched_since
from longtake.framework.engine.replica_reports import fold, whole_report
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_description import described
from longtake.framework.engine.run_folder import (
    CONFIG,
    CONFIG_FORMAT,
    CONFIG_HEADER,
    INPUTS,
    LAST_ACTIONS,
    RunFolder,
)
from longtake.framework.engine.settings import settled_options
from longtake.framework.module import VideoModule
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
    _folder: RunFolder | None = None
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
        if self._folder is not None:
            self._folder.release()

    def before_plan(self) -> None:
        """Take the plan file that was given."""
        self.trainer.follow(self.config.plan.plan)
        config = self.config.plan.clone()
        config.trainer.accelerator = self._planned_for
        self.trainer.planned_config = yaml.safe_load(
            self._parser(self.subcommand).dump(config, skip_default=True)
        )

    def before_predict(self) -> None:
        """Check the output and everything else, then put the output callbacks in place.

        Only the first rank of all looks at the output folder: others may be on machines that do
        not see it, or come when it is no longer empty.
        """
        config = self.config.predict
        self.trainer.follow(config.plan)
        folder = RunFolder(config.output, overwrite=config.overwrite)
        resumes = config.resume is not None or config.extend is not None
        goes_on = resumes and (config.resume != AUTO or folder.holds_run)
        _check_together(config, goes_on)
        if self.trainer.is_global_zero:
            folder.check_run() if goes_on else folder.check()
        growth = RunGrowth(
            folder,
            None if config.extend is None else config.data.num_frames,
            first=self.trainer.is_global_zero,
            kept=self.config_init.predict.video.kept,
        )
        engine = self.trainer.prepare(
            self.model, self.datamodule, growth.parts if goes_on else None
        )
        requests = self.datamodule.requests()
        for request in requests:
            self.config_init.predict.video.check(request)
        keeper = RunKeeper(
            folder,
            config.snapshot_seconds,
            resumes=resumes,
            extensions=growth.requests,
            keep_snapshots=config.keep_snapshots,
        )
        engine.keep(keeper)
        made = keeper.made(requests)
        if goes_on and made >= {request.index for request in requests}:
            if self.trainer.is_global_zero:
                self._tidy(folder, keeper)
            raise SystemExit(0)
        if not self.trainer.is_global_zero:
            others = self._others_inputs(folder, engine, goes_on) if engine.is_output else None
            self._attach(folder, engine, keeper, growth, goes_on, {}, others, {})
            return
        description = described(engine.chosen)
        files = [Path(str(file)) for file in config.config or ()]
        for warning in [*engine.chosen.warnings(), *differences(files, description["hardware"])]:
            sys.stderr.write(f"longtake: warning: {warning}\n")
        inputs = self._begin(folder, engine, keeper, growth if goes_on else None)
        self.trainer.keep_last_actions(folder.path / LAST_ACTIONS)
        touched = touched_since(folder, made) if goes_on else {}
        for sentence in touched.values():
            sys.stderr.write(f"longtake: warning: {sentence}; it is not made again.\n")
        self._attach(folder, engine, keeper, growth, goes_on, description, inputs, touched)

    def _others_inputs(self, folder: RunFolder, engine: Engine, goes_on: bool) -> dict[str, Any]:
        """Return the run's inputs as another rank than the first one finds them."""
        inputs = inputs_of(self.datamodule.requests(), engine.model)
        if goes_on:
            inputs["model"] = earlier_inputs(folder)["model"]
        return inputs

    def _attach(
        self,
        folder: RunFolder,
        engine: Engine,
        keeper: RunKeeper,
        growth: RunGrowth,
        goes_on: bool,
        description: Mapping[str, Any],
        inputs: Mapping[str, Any] | None,
        touched: Mapping[int, str],
    ) -> None:
        """Put the callbacks of this rank in place.

        Args:
            folder: The run's.
            engine: This rank's.
            keeper: The run's.
            growth: How its videos grow.
            goes_on: Whether a run that is there goes on.
            description: What it is made with; empty where another rank says so.
            inputs: What ``inputs.json`` says; ``None`` where no video comes out.
            touched: What has become of videos that are finished, by request.
        """
        config, ranks = self.config.predict, lambda: engine.communicator
        timeline = [TimelineWriter(folder, ranks)] if config.timeline else []
        if inputs is None:
            self.trainer.attach([*timeline])
            return
        several, video = engine.chosen.replicas.count > 1, self.config_init.predict.video
        kept = {index: one.kept for index, one in growth.requests.items() if one.kept is not None}
        name = inputs["model"]["name"]
        video.bind(folder, engine.timings, name, goes_on=goes_on, kept=kept)
        report = ReportWriter(
            folder,
            engine.timings,
            config.progress,
            engine.workloads,
            ranks,
            whole_report(folder) if goes_on and self.trainer.is_global_zero else None,
            video.after_frames,
            lambda: video.there,
            description,
            inputs,
            lambda: video.left,
            touched,
            engine.replica if several else None,
        )
        latents = LatentWriter(folder, engine.timings, keep=config.keep_latents, keeper=keeper)
        progress = progress_callback(config.progress, lines=several)
        self.trainer.attach([progress, report, latents, *timeline])

    def _tidy(self, folder: RunFolder, keeper: RunKeeper) -> None:
        """Remove what a run may have left that is finished.

        Raises:
            OutputError: A video that it has made is not there any more, or not as it was.
        """
        self._folder, requests = folder, self.datamodule.requests()
        folder.reopen()
        keeper.tidy(requests, self.config.predict.keep_latents)
        for sentence in touched_since(folder, keeper.made(requests)).values():
            raise OutputError(
                f"the run in {folder.path} is finished, but {sentence}. Bring it back, or make it "
                f"again: longtake predict --config {folder.path / CONFIG} --overwrite true."
            )
        sys.stderr.write(f"longtake: the run in {folder.path} is finished.\n")

    def _begin(
        self, folder: RunFolder, engine: Engine, keeper: RunKeeper, growth: RunGrowth | None
    ) -> dict[str, Any]:
        """Take the folder; write what the run is, or see that it is the one that was begun.

        Returns:
            The run's inputs.
        """
        seams = {} if growth is None else growth.seams
        config = self.dump_config(engine.model, seams)
        inputs = inputs_of(self.datamodule.requests(), engine.model)
        self._folder = folder
        if growth is not None:
            growth.check(config, inputs)
            self._check_disk(folder, engine, keeper, goes_on=True)
            # With the name that files of the run bear, also where the model is elsewhere now.
            inputs["model"] = earlier_inputs(folder)["model"]
            folder.reopen()
            fold(folder)
            growth.commit(config, inputs)
            keeper.tidy(self.datamodule.requests(), self.config.predict.keep_latents)
            return inputs
        self._check_disk(folder, engine, keeper, goes_on=False)
        folder.create()
        folder.write_json(INPUTS, inputs)
        folder.write_text(CONFIG, config)
        return inputs

    def _check_disk(
        self, folder: RunFolder, engine: Engine, keeper: RunKeeper, *, goes_on: bool
    ) -> None:
        """Refuse what cannot fit on the disk, and say what may not."""
        config, requests = self.config.predict, self.datamodule.requests()
        made = keeper.made(requests)
        left = [request for request in requests if request.index not in made]
        journals = [Journal(folder.path_of(request.index)) for request in left]
        if warning := check_disk(
            folder.path,
            [engine.workloads.of(request) for request in left],
            engine.chosen.layout,
            config.keep_latents,
            config.keep_snapshots,
            engine.chosen.replicas.count,
            [journal.size() for journal in journals] if goes_on else (),
        ):
            sys.stderr.write(f"longtake: warning: {warning}\n")

    def dump_config(
        self, model: ResolvedModel, seams: Mapping[int, Sequence[int]] | None = None
    ) -> str:
        """Return the resolved configuration as YAML that ``--config`` takes.

        With the model's own settings where the user has left them out, so that a rerun makes the
        same video whatever a later version takes. Without ``overwrite``: who runs it again has not
        asked for that. Files are named so that it does not matter from which folder it is run.

        Args:
            model: Of the run.
            seams: At how many video frames requests were extended from their tails: a rerun makes
                something else there, and the text says so.
        """
        config = self.config.predict.clone()
        config.overwrite, config.resume, config.extend = False, None, None
        for name, value in settled_options(model.settings).items():
            config.model[name] = value
        config.model.flow_shift = model.fixed_flow_shift
        if model.folder.revision is not None:  # the commit of a hub model
            config.model.revision = model.folder.revision
        for name, value in self.datamodule.settled.items():
            if name != "keyframes":  # as they were parsed: the model has none of its own
                config.data[name] = written(value) if name == "fps" else value
        for part, name in FILES:
            config[part][name] = absolute(config[part][name])
        config.model.lora = absolute_lora(config.model.lora)
        if config.plan is not None:
            config.plan = absolute(str(config.plan))
        for keyframe in config.data.keyframes or ():
            keyframe["image"] = absolute(keyframe["image"])
        dumped = self._parser(self.subcommand).dump(config, skip_unset=False)
        said = "".join(
            f"# Request {index} was extended after {', '.join(map(str, frames))} video frames: a "
            f"rerun makes it in one go, and something else from there on.\n"
            for index, frames in (seams or {}).items()
        )
        return f"{CONFIG_HEADER} {__version__}, format {CONFIG_FORMAT}\n{said}{dumped}"


def _check_together(config: Any, goes_on: bool) -> None:
    """Refuse run options that contradict each other.

    Args:
        config: Of ``predict``.
        goes_on: Whether a run that is there goes on.
    """
    if goes_on and config.overwrite:
        raise ConfigurationError("--resume goes on with a run and --overwrite replaces it.")
    if config.keep_snapshots == "extend" and config.keep_latents != "all":
        raise ConfigurationError(
            f"--keep_snapshots extend keeps where a longer video goes on, which needs the "
            f"latents before it: --keep_latents is {config.keep_latents}; all does."
        )


def gathered(args: list[str]) -> list[str]:
    """Make a repeated ``--model.lora`` add to a list, where each would replace the one before."""
    found: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        again = name == LORA and any(before.partition("=")[0] == LORA for before in found)
        found.append(f"{name}+{equals}{value}" if again else arg)
    return found

"""Start of a run: its folder is taken, what it is gets written down, its callbacks get in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, final

from longtake import __version__
from longtake.errors import ConfigurationError, OutputError
from longtake.framework.callbacks import (
    LatentWriter,
    ReportWriter,
    TimelineWriter,
    VideoWriter,
    progress_callback,
)
from longtake.framework.console.extend import RunGrowth
from longtake.framework.console.rerun import differences
from longtake.framework.console.resume import AUTO, FILES, absolute, absolute_lora
from longtake.framework.data import PromptData
from longtake.framework.engine.disk import check_disk
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.frame_rate import written
from longtake.framework.engine.inputs import earlier_inputs, inputs_of
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import RunKeeper, touched_since
from longtake.framework.engine.replica_reports import fold, whole_report
from longtake.framework.engine.request import Request
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


@final
class RunStart:
    """Does what comes between the options and the first block: checks, the folder, callbacks.

    Every rank makes one, with the same options.

    Args:
        trainer: Of the run.
        model: Makes the videos.
        datamodule: What to make.
        config: Options of ``predict``, as they were parsed.
        video: Writes the videos.
        dump: Returns options as YAML.
    """

    def __init__(
        self,
        trainer: InferenceTrainer,
        model: VideoModule,
        datamodule: PromptData,
        config: Any,
        video: VideoWriter,
        dump: Callable[[Any], str],
    ) -> None:
        self._trainer, self._model, self._datamodule = trainer, model, datamodule
        self._config, self._video, self._dump = config, video, dump
        self._folder = RunFolder(config.output, overwrite=config.overwrite)

    def prepare(self) -> None:
        """Check the output and everything else, then put the output callbacks in place.

        Only the first rank of all looks at the output folder: others may be on machines that do
        not see it, or come when it is no longer empty.
        """
        config, folder = self._config, self._folder
        self._trainer.follow(config.plan)
        resumes = config.resume is not None or config.extend is not None
        goes_on = resumes and (config.resume != AUTO or folder.holds_run)
        _check_together(config, goes_on)
        if self._trainer.is_global_zero:
            folder.check_run() if goes_on else folder.check()
        growth = RunGrowth(
            folder,
            None if config.extend is None else config.data.num_frames,
            first=self._trainer.is_global_zero,
            kept=self._video.kept,
        )
        engine = self._trainer.prepare(
            self._model, self._datamodule, growth.parts if goes_on else None
        )
        requests = self._datamodule.requests()
        for request in requests:
            self._video.check(request)
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
            if self._trainer.is_global_zero:
                self._tidy(keeper)
            raise SystemExit(0)
        if not self._trainer.is_global_zero:
            others = self._others_inputs(engine, goes_on) if engine.is_output else None
            self._attach(engine, keeper, growth, goes_on, {}, others, {})
            return
        description = described(engine.chosen)
        files = [Path(str(file)) for file in config.config or ()]
        for warning in [*engine.chosen.warnings(), *differences(files, description["hardware"])]:
            sys.stderr.write(f"longtake: warning: {warning}\n")
        inputs = self._begin(engine, keeper, growth if goes_on else None, made)
        self._trainer.keep_last_actions(folder.path / LAST_ACTIONS)
        touched = touched_since(folder, made) if goes_on else {}
        for sentence in touched.values():
            sys.stderr.write(f"longtake: warning: {sentence}; it is not made again.\n")
        self._attach(engine, keeper, growth, goes_on, description, inputs, touched)

    def release(self) -> None:
        """Give the folder up, if it has been taken."""
        self._folder.release()

    def _others_inputs(self, engine: Engine, goes_on: bool) -> dict[str, Any]:
        """Return the run's inputs as another rank than the first one finds them."""
        inputs = inputs_of(self._datamodule.requests(), engine.model)
        if goes_on:
            inputs["model"] = earlier_inputs(self._folder)["model"]
        return inputs

    def _attach(
        self,
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
            engine: This rank's.
            keeper: The run's.
            growth: How its videos grow.
            goes_on: Whether a run that is there goes on.
            description: What it is made with; empty where another rank says so.
            inputs: What ``inputs.json`` says; ``None`` where no video comes out.
            touched: What has become of videos that are finished, by request.
        """
        config, ranks = self._config, lambda: engine.communicator
        timeline = [TimelineWriter(self._folder, ranks)] if config.timeline else []
        if inputs is None:
            self._trainer.attach([*timeline])
            return
        several, video = engine.chosen.replicas.count > 1, self._video
        kept = {index: one.kept for index, one in growth.requests.items() if one.kept is not None}
        name = inputs["model"]["name"]
        video.bind(self._folder, engine.timings, name, goes_on=goes_on, kept=kept)
        report = ReportWriter(
            self._folder,
            engine.timings,
            config.progress,
            engine.workloads,
            ranks,
            whole_report(self._folder) if goes_on and self._trainer.is_global_zero else None,
            video.after_frames,
            lambda: video.there,
            description,
            inputs,
            lambda: video.left,
            touched,
            engine.replica if several else None,
        )
        latents = LatentWriter(
            self._folder, engine.timings, keep=config.keep_latents, keeper=keeper
        )
        progress = progress_callback(config.progress, lines=several)
        self._trainer.attach([progress, report, latents, *timeline])

    def _tidy(self, keeper: RunKeeper) -> None:
        """Remove what a run may have left that is finished.

        Raises:
            OutputError: A video that it has made is not there any more, or not as it was.
        """
        folder, requests = self._folder, self._datamodule.requests()
        folder.reopen()
        keeper.tidy(requests, self._config.keep_latents)
        for sentence in touched_since(folder, keeper.made(requests)).values():
            raise OutputError(
                f"the run in {folder.path} is finished, but {sentence}. Bring it back, or make it "
                f"again: longtake predict --config {folder.path / CONFIG} --overwrite true."
            )
        sys.stderr.write(f"longtake: the run in {folder.path} is finished.\n")

    def _begin(
        self, engine: Engine, keeper: RunKeeper, growth: RunGrowth | None, made: Set[int]
    ) -> dict[str, Any]:
        """Take the folder; write what the run is, or see that it is the one that was begun.

        Args:
            engine: This rank's.
            keeper: The run's.
            growth: How its videos grow; ``None`` for a run that begins.
            made: Requests that are finished.

        Returns:
            The run's inputs.
        """
        folder, requests = self._folder, self._datamodule.requests()
        seams = {} if growth is None else growth.seams
        config = self.config_text(engine.model, seams)
        inputs = inputs_of(requests, engine.model)
        left = [request for request in requests if request.index not in made]
        if growth is not None:
            growth.check(config, inputs)
            self._check_disk(engine, left, goes_on=True)
            # With the name that files of the run bear, also where the model is elsewhere now.
            inputs["model"] = earlier_inputs(self._folder)["model"]
            folder.reopen()
            fold(folder)
            growth.commit(config, inputs)
            keeper.tidy(requests, self._config.keep_latents)
            return inputs
        self._check_disk(engine, left, goes_on=False)
        folder.create()
        folder.write_json(INPUTS, inputs)
        folder.write_text(CONFIG, config)
        return inputs

    def _check_disk(self, engine: Engine, left: Sequence[Request], *, goes_on: bool) -> None:
        """Refuse requests that cannot fit on the disk, and say what may not."""
        config, folder = self._config, self._folder
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

    def config_text(
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
        config = self._config.clone()
        config.overwrite, config.resume, config.extend = False, None, None
        for name, value in settled_options(model.settings).items():
            config.model[name] = value
        config.model.flow_shift = model.fixed_flow_shift
        if model.folder.revision is not None:  # the commit of a hub model
            config.model.revision = model.folder.revision
        for name, value in self._datamodule.settled.items():
            if name != "keyframes":  # as they were parsed: the model has none of its own
                config.data[name] = written(value) if name == "fps" else value
        for part, name in FILES:
            config[part][name] = absolute(config[part][name])
        config.model.lora = absolute_lora(config.model.lora)
        if config.plan is not None:
            config.plan = absolute(str(config.plan))
        for keyframe in config.data.keyframes or ():
            keyframe["image"] = absolute(keyframe["image"])
        dumped = self._dump(config)
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

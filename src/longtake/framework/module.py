"""Lightning module: one request per batch, through the engine."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import GeneratorType
from typing import Any, final

import lightning.pytorch as pl
import torch
from typing_extensions import override

from longtake.errors import ConfigurationError, LongtakeError
from longtake.framework.arguments import arguments_of
from longtake.framework.callbacks.base import dispatch, dispatch_failure
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.request import Request
from longtake.framework.launch.interrupt import StopFlag
from longtake.framework.launch.rank_strategy import RankStrategy
from longtake.framework.options import options_of
from longtake.strategies import ActionDone


@final
class VideoModule(pl.LightningModule):
    """How videos are made: the model, the schedule of its blocks, the sampler.

    ``VideoModule(pipeline="demo", steps=8)`` takes the fields of ``GenerationConfig``, which are
    the options ``model.*`` of the command line.
    """

    @options_of(GenerationConfig)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        options = arguments_of("model", GenerationConfig, args, options)
        self.generation_config = GenerationConfig(**options)
        self.engine: Engine | None = None
        self.stop = StopFlag()
        self.cut_short = False
        """Whether a stop has left something unmade that was asked for."""
        self._requests: Sequence[Request] = ()
        self._open: Request | None = None
        self._shown = False
        self._begun = 0
        self._asked = False

    def prepare(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Take the checked engine and the requests of the run."""
        self.engine = engine
        self._requests = requests

    @override
    def configure_model(self) -> None:
        """Join the other ranks and read this one's weights: processes exist only now."""
        engine, strategy = self._engine(), self.trainer.strategy
        # Lightning makes the rank's device the default of this hook alone: what is made here by
        # default would then be mixed with what is made later. The engine names devices itself.
        with torch.device("cpu"):
            if isinstance(strategy, RankStrategy):
                engine.join(strategy.communicator)
            engine.load(self._requests)

    @override
    def transfer_batch_to_device(
        self, batch: Request, device: torch.device, dataloader_idx: int
    ) -> Request:
        """Leave the request alone: it holds no tensors (and Lightning refuses frozen classes)."""
        return batch

    @override
    def predict_step(self, batch: Request, batch_idx: int) -> None:
        """Make one video; what happens is reported to the callbacks, nothing is returned.

        With decode ranks the next video may begin before this one is all decoded; its events come
        after those of this one.

        Once the run is to stop, the requests that are left pass by: Lightning's predict loop
        cannot be ended.
        """
        engine = self._engine()
        if engine.is_output:
            self._follow(engine.generate_ahead(batch, self._is_to_stop))
        else:
            self._follow(engine.generate_ahead(batch))

    def _is_to_stop(self) -> bool:
        """Whether a signal has come to this rank, or to another one."""
        if self.stop.is_set():
            self._ask_to_stop()  # other replicas
        else:
            asked = self._engine().communicator.asked_to_stop()
            if asked is not None:
                self.stop.set(asked or None)
        return self.stop.is_set()

    def _ask_to_stop(self) -> None:
        """Have all ranks hear that the run is to end, should a signal have come to this one."""
        if self.stop.is_set() and not self._asked:
            self._engine().communicator.ask_to_stop(self.stop.signal or 0)
            self._asked = True

    @override
    def on_predict_epoch_start(self) -> None:
        """Forget an earlier run."""
        self._begun, self._asked = 0, False

    @override
    def on_predict_epoch_end(self) -> None:
        """Take what decode ranks still have to give, and wait for the other replicas."""
        engine = self._engine()
        self._follow(engine.finish())
        made = self._begun + engine.made_before
        self.cut_short |= engine.is_output and made < len(engine.share)
        said = engine.leave(str(int(self.cut_short)), self._ask_to_stop)
        self.cut_short = engine.communicator.rank == 0 and "1" in said  # it speaks for all
        if self.cut_short:
            self._is_to_stop()  # for which signal

    def _follow(self, events: Iterator[Event]) -> None:
        """Tell the callbacks what happens; on other ranks than the output's, only what they do."""
        try:
            for event in events:
                if self._engine().is_output:
                    self._note(event)
                    self._emit(event)
                elif isinstance(event, ActionDone):
                    self._ask_to_stop()
                    self._emit(event)
        except KeyboardInterrupt:  # at once: callbacks hear of it by ``on_exception``
            raise
        except BaseException as error:
            if self._open is not None:
                callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
                dispatch_failure(callbacks, self.trainer, self, self._open)
            alone = self._engine().is_alone
            if alone and isinstance(error, Exception) and isinstance(events, GeneratorType):
                # Of a callback's error the engine hears now, not when the interpreter ends.
                with suppress(LongtakeError):  # the first error is the one to be shown
                    events.close()
            raise

    def _note(self, event: Event) -> None:
        match event:
            case RequestStarted(request=request):
                self._open, self._shown, self._begun = request, False, self._begun + 1
            case FramesDecoded():
                self._shown = True
            case RequestEnded(request=request, reason=reason):
                self._open = None
                stopped = reason is ExitReason.STOPPED
                # An endless video is meant to be stopped by whoever sees it, once there is
                # something of it; a scheduler would go on with it.
                meant = self.stop.signal in (None, signal.SIGINT)
                ended = request.num_frames is None and self._shown and meant
                self.cut_short |= stopped and not ended
            case _:
                pass

    def _emit(self, event: Event) -> None:
        dispatch(self.trainer.callbacks, self.trainer, self, event)  # type: ignore[attr-defined]

    def _engine(self) -> Engine:
        if self.engine is None:
            raise ConfigurationError(
                "the VideoModule has not been prepared: it runs under InferenceTrainer.predict, "
                "not under another trainer."
            )
        return self.engine

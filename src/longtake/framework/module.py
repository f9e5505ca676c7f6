"""Lightning module: one request per batch, through the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

import lightning.pytorch as pl
import torch
from jsonargparse.typing import lazy_instance
from typing_extensions import override

from longtake.caches import FeatureCache, NextBlockKV
from longtake.framework.callbacks.base import dispatch, dispatch_failure
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.generation_config import Dtype, GenerationConfig
from longtake.framework.engine.request import Request
from longtake.framework.launch.interrupt import StopFlag
from longtake.framework.launch.rank_strategy import RankStrategy
from longtake.models import Lora, ModelFamily, Sampler, SamplerSettings
from longtake.noise import NoiseInit, SharedPool
from longtake.schedulers import BlockScheduler, FifoQueue
from longtake.strategies import ActionDone


@final
class Generator(pl.LightningModule):
    """How videos are made: the model, the schedule of its blocks, the sampler.

    Args:
        pipeline: The model: a diffusers folder, a hub id, or ``demo`` (bundled; its sizes are in
            ``configs/demo.yaml``).
        variant: Which weight files are read where a folder has several kinds: ``fp16`` for
            ``*.fp16.safetensors``, ``bf16``; left out: the plain ones.
        revision: Branch, tag or commit of a hub id; left out: the newest commit. A run's
            ``config.yaml`` holds the commit that it used, so that it can be run again.
        family: A model family of your own, ``{class_path: my_package.MyFamily}``; left out: the one
            that is registered for the pipeline (``longtake models``).
        scheduler: What is denoised, in which order. ``FifoQueue`` for long and endless videos,
            ``FullSequence`` for clips up to the model's native length.
        noise: The starting noise of every block.
        cache: How a block sees its neighbors: which keys and values outlive a task.
        steps: Denoising steps of each block; left out: the model's own number (``longtake
            models``).
        guidance_scale: Scale of classifier-free guidance; 1 or less turns it off (for all experts).
            A model with embedded guidance is told the scale instead. Left out: the model's own.
        guidance_scale_2: Of the second expert of Wan 2.2; left out: as ``guidance_scale`` if that
            is given, else the model's own.
        sampler: A diffusers scheduler class, such as ``UniPCMultistepScheduler``,
            ``FlowMatchEulerDiscreteScheduler`` or ``DPMSolverMultistepScheduler``; or a sampler
            of your own, ``{class_path: my_package.MySampler}``. Left out: the scheduler that the
            model ships.
        flow_shift: Shift of the noise levels (Wan: 3 at 480p, 5 at 720p); left out: the model's
            own, by the clip's size where that is how it was trained (LTX-Video).
        dtype: Of the transformer's and the text encoder's weights. Norms, time embedding and the
            VAE stay in float32, as the model class declares.
        attention: diffusers' attention backend: ``native``, ``flash``, ``sage``, ...
        vae_tile: Decodes pictures in square tiles of so many pixels, which overlap by a quarter;
            several decode devices share a video's tiles. Left out: whole pictures.
        start_noise: With ``data.start`` and a text-to-video model: how much of a block's noise
            the given frames are seen with while the others are made. 1 is what such a model was
            trained with, but the video may jump after them; with less it follows them more
            closely; 0 shows them clean.
        lora: A LoRA to merge into the transformer's weights: a folder as diffusers or peft saves
            it, or a safetensors file of any trainer (docs/lora.md). Or several: a list, or the
            option repeated. Each may be ``{path: ..., scale: 1.0}``; for Wan 2.2 with
            ``component: transformer_2`` (or ``all``) and ``scale_2`` for the second expert; with
            ``missing: skip`` where the model lacks modules that the LoRA changes.
    """

    def __init__(
        self,
        pipeline: str,
        variant: str | None = None,
        revision: str | None = None,
        family: ModelFamily | None = None,
        scheduler: BlockScheduler = lazy_instance(FifoQueue),
        noise: NoiseInit = lazy_instance(SharedPool),
        cache: FeatureCache = lazy_instance(NextBlockKV),
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        sampler: str | Callable[[SamplerSettings], Sampler] | None = None,
        flow_shift: float | None = None,
        dtype: Dtype = "bfloat16",
        attention: str = "native",
        vae_tile: int | None = None,
        start_noise: float = 0.5,
        lora: list[Lora | str] | Lora | str | None = None,
    ) -> None:
        super().__init__()
        self.generation_config = GenerationConfig(
            pipeline=pipeline,
            variant=variant,
            revision=revision,
            family=family,
            scheduler=scheduler,
            noise=noise,
            cache=cache,
            steps=steps,
            guidance_scale=guidance_scale,
            guidance_scale_2=guidance_scale_2,
            sampler=sampler,
            flow_shift=flow_shift,
            dtype=dtype,
            attention=attention,
            vae_tile=vae_tile,
            start_noise=start_noise,
            loras=_loras(lora),
        )
        self.engine: Engine | None = None
        self.stop = StopFlag()
        self.cut_short = False
        """Whether a stop has left something unmade that was asked for."""
        self._requests: Sequence[Request] = ()
        self._open: Request | None = None
        self._shown = False
        self._begun = 0

    def prepare(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Take the checked engine and the requests of the run."""
        self.engine = engine
        self._requests = requests

    @override
    def configure_model(self) -> None:
        """Join the other ranks and read this one's weights: processes exist only now."""
        engine, strategy = self._engine(), self.trainer.strategy
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
            self._follow(engine.generate_ahead(batch, self.stop.is_set))
        else:
            self._follow(engine.generate_ahead(batch))

    @override
    def on_predict_epoch_start(self) -> None:
        """Forget an earlier run."""
        self._begun = 0

    @override
    def on_predict_epoch_end(self) -> None:
        """Take what decode ranks still have to give."""
        self._follow(self._engine().finish())
        self.cut_short |= self._engine().is_output and self._begun < len(self._requests)

    def _follow(self, events: Iterator[Event]) -> None:
        """Tell the callbacks what happens; on other ranks than the output's, only what they do."""
        try:
            for event in events:
                if self._engine().is_output:
                    self._note(event)
                    self._emit(event)
                elif isinstance(event, ActionDone):
                    self._emit(event)
        except BaseException:
            if self._open is not None:
                callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
                dispatch_failure(callbacks, self.trainer, self, self._open)
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
                # An endless video is meant to be stopped, once there is something of it.
                self.cut_short |= stopped and not (request.num_frames is None and self._shown)
            case _:
                pass

    def _emit(self, event: Event) -> None:
        dispatch(self.trainer.callbacks, self.trainer, self, event)  # type: ignore[attr-defined]

    def _engine(self) -> Engine:
        if self.engine is None:
            raise RuntimeError("Generator runs under InferenceTrainer.predict, which prepares it")
        return self.engine


def _loras(given: list[Lora | str] | Lora | str | None) -> tuple[Lora, ...]:
    """Return LoRAs, however many are given and in whichever form."""
    each = given if isinstance(given, list) else [] if given is None else [given]
    return tuple(Lora(path=one) if isinstance(one, str) else one for one in each)

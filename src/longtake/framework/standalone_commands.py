"""Stand-alone commands: those that take no model, no data and no devices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from longtake.framework.console.calibration_report import save_calibration
from longtake.framework.console.conversion_report import show as show_converted
from longtake.framework.console.conversion_report import show_made
from longtake.framework.console.doctor import examine
from longtake.framework.console.doctor import show as show_findings
from longtake.framework.console.methods_report import methods as every_method
from longtake.framework.console.methods_report import row_of as method_row
from longtake.framework.console.models_report import cards
from longtake.framework.console.models_report import row_of as model_row
from longtake.framework.console.strategies_report import row_of as strategy_row
from longtake.framework.console.strategies_report import strategies as every_strategy
from longtake.framework.console.verify_report import show as show_verdict
from longtake.framework.engine.generation_config import Dtype
from longtake.framework.engine.verification import verify as verify_model
from longtake.listings import show_listing
from longtake.models.loading.convert import convert
from longtake.models.open_sora_plan import convert_folder
from longtake.ready_configs import show_configs
from longtake.tables import Format


class StandaloneCommands:
    """Commands as the command line is made of them: their parameters are the options.

    The trainer has them beside those that run something.
    """

    @staticmethod
    def convert(
        file: Path,
        output: Path | None = None,
        key: str | None = None,
        text_encoder: Path | None = None,
        vae: Path | None = None,
    ) -> None:
        """Write a PyTorch checkpoint as safetensors, which longtake reads.

        Reads tensors only: nothing in the file is run.

        Args:
            file: The checkpoint: .pt, .pth, .ckpt or .bin. Or the folder of Open-Sora-Plan 1.3's
                transformer, of which a pipeline folder is made.
            output: File to write; left out: beside the checkpoint, ending with .safetensors. Of a
                folder: the pipeline folder to make.
            key: Which entry of the checkpoint, such as generator_ema; left out: the only model
                that it holds.
            text_encoder: Of a folder: google/mt5-xxl, downloaded.
            vae: Of a folder: its VAE; left out: the folder vae beside it.
        """
        if file.is_dir():
            show_made(file, convert_folder(file, output, text_encoder, vae))
        else:
            show_converted(file, convert(file, output, key))

    @staticmethod
    def models(format: Format = "table") -> None:
        """List the models that can be run, plug-ins included, and what each takes.

        Args:
            format: Of the list: a table, or JSON for programs.
        """
        show_listing("models", [model_row(card) for card in cards()], format)

    @staticmethod
    def configs(format: Format = "table") -> None:
        """List the ready configurations for --config NAME: what each makes and needs.

        Args:
            format: Of the list: a table, or JSON for programs.
        """
        show_configs(format)

    @staticmethod
    def methods(format: Format = "table") -> None:
        """List the methods that can be run, plug-ins included: what each is for and costs.

        Args:
            format: Of the list: a table, or JSON for programs.
        """
        show_listing("methods", [method_row(method) for method in every_method()], format)

    @staticmethod
    def strategies(format: Format = "table") -> None:
        """List the strategies that runs on several devices can have: what each divides.

        Args:
            format: Of the list: a table, or JSON for programs.
        """
        show_listing("strategies", [strategy_row(one) for one in every_strategy()], format)

    @staticmethod
    def verify(
        pipeline: str,
        dtype: Dtype = "bfloat16",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        height: int = 320,
        width: int = 512,
    ) -> None:
        """Compare a model on its real weights with diffusers' own pipeline, for a report.

        Two steps of a short clip from the same noise, first in diffusers, then here. The exit
        status is 1 where the two differ by more than rounding.

        Args:
            pipeline: The model: a diffusers folder or a hub id.
            dtype: Of the weights; float32 compares most strictly.
            device: Where both compute; auto takes a GPU where there is one.
            height: Of the clip, in pixels.
            width: Of the clip, in pixels.
        """
        here = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(here if device == "auto" else device)
        raise SystemExit(show_verdict(verify_model(pipeline, dtype, place, height, width)))

    @staticmethod
    def doctor() -> None:
        """Say what this machine has and what works on it, for a report of a bug."""
        raise SystemExit(show_findings(examine()))

    @staticmethod
    def calibrate(
        output: Path = Path("hardware.yaml"), device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> None:
        """Measure this machine, in less than two minutes: longtake plan --profile FILE.

        Args:
            output: File to write; a file that is there is replaced.
            device: What to measure; auto: a GPU where there is one.
        """
        save_calibration(output, device)

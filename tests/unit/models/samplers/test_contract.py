"""diffusers' schedulers keep the contract of samplers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest

from longtake.models import DiffusersSampler, Sampler
from longtake.testing.contracts import SamplerContract
from longtake.testing.contracts.samplers import STEPS

# numpy's complaints about diffusers' DPM-Solver++ and DEIS, harmless.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS: list[tuple[str, dict[str, Any], float | None]] = [
    ("UniPCMultistepScheduler", FLOW, None),
    ("DPMSolverMultistepScheduler", FLOW, None),
    ("DPMSolverMultistepScheduler", FLOW | {"algorithm_type": "sde-dpmsolver++"}, None),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, None),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, None),
    ("FlowMatchLCMScheduler", {}, None),
    ("CogVideoXDDIMScheduler", {}, None),
    ("DDIMScheduler", {"clip_sample": False}, None),
    ("DDIMScheduler", {"clip_sample": False}, 1.0),
    ("DDPMScheduler", {"clip_sample": False}, None),
    ("DEISMultistepScheduler", {}, None),
    ("EulerDiscreteScheduler", {}, None),
    ("EulerAncestralDiscreteScheduler", {}, None),
    ("LCMScheduler", {}, None),
    ("SASolverScheduler", {}, None),
    ("TCDScheduler", {}, None),
]


@pytest.mark.parametrize(
    "scheduler", SCHEDULERS, ids=lambda one: "-".join(map(str, (one[0], *one[1].values(), one[2])))
)
class TestDiffusersSchedulers(SamplerContract):
    @pytest.fixture(autouse=True)
    def _scheduler(self, scheduler: tuple[str, dict[str, Any], float | None]) -> None:
        self.scheduler = scheduler

    def sampler(self) -> Sampler:
        name, config, eta = self.scheduler
        return DiffusersSampler(getattr(diffusers, name)(**config), STEPS, eta=eta)

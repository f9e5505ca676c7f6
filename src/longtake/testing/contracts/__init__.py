"""Contract suites: what every implementation of an interface must do, as pytest classes.

Start here when writing a plug-in. Subclass the suite of your interface in a test module of your
own and say how an instance is made::

    class TestMyNoise(NoiseInitContract):
        def noise(self) -> NoiseInit:
            return MyNoise()

pytest collects every test of the suite with it.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            "schedulers",
            "noise",
            "caches",
            "strategies",
            "strategy_runs",
            "backbone",
            "backbone_case",
            "backbone_layers",
            "frame_levels",
            "decoder",
            "attention",
            "guidance",
            "reuse",
            "samplers",
        )
    )
)

from longtake.testing.contracts.attention import AttentionKernelContract  # noqa: E402
from longtake.testing.contracts.backbone import BackboneContract  # noqa: E402
from longtake.testing.contracts.caches import FeatureCacheContract  # noqa: E402
from longtake.testing.contracts.decoder import VideoDecoderContract  # noqa: E402
from longtake.testing.contracts.frame_levels import FrameLevelsContract  # noqa: E402
from longtake.testing.contracts.guidance import GuidanceContract  # noqa: E402
from longtake.testing.contracts.noise import NoiseInitContract  # noqa: E402
from longtake.testing.contracts.reuse import LayerReuseContract  # noqa: E402
from longtake.testing.contracts.samplers import SamplerContract  # noqa: E402
from longtake.testing.contracts.schedulers import BlockSchedulerContract  # noqa: E402
from longtake.testing.contracts.strategies import ParallelStrategyContract  # noqa: E402

__all__ = [
    "AttentionKernelContract",
    "BackboneContract",
    "BlockSchedulerContract",
    "FeatureCacheContract",
    "FrameLevelsContract",
    "GuidanceContract",
    "LayerReuseContract",
    "NoiseInitContract",
    "ParallelStrategyContract",
    "SamplerContract",
    "VideoDecoderContract",
]

"""The engine and, around it, the only place that imports Lightning.

What is exported here needs no Lightning: a video from Python is ``Engine(...).generate(request)``.
The command line is ``longtake.framework.cli``, entered by ``longtake.framework.main``.
"""

from longtake.framework.engine.engine import Engine
from longtake.framework.engine.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.request import Keyframe, PromptAt, Request

__all__ = [
    "Engine",
    "Event",
    "ExitReason",
    "FramesDecoded",
    "GenerationConfig",
    "Keyframe",
    "PromptAt",
    "Request",
    "RequestEnded",
    "RequestStarted",
]

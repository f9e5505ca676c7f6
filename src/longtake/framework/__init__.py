"""The engine and, around it, the only place that imports Lightning.

What is exported here needs no Lightning: a video from Python is ``Engine(...).generate(request)``.
The command line is ``longtake.framework.cli``.
"""

from longtake.framework.engine import Engine
from longtake.framework.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.recipe import Recipe
from longtake.framework.request import PromptAt, Request

__all__ = [
    "Engine",
    "Event",
    "ExitReason",
    "FramesDecoded",
    "PromptAt",
    "Recipe",
    "Request",
    "RequestEnded",
    "RequestStarted",
]

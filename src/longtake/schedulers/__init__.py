"""Block schedulers: what is denoised, in which order."""

from longtake.schedulers.autoregressive import Autoregressive
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.card import MethodCard
from longtake.schedulers.cascade_queue import CascadeQueue
from longtake.schedulers.context_windows import ContextWindows
from longtake.schedulers.diffusion_forcing import DiffusionForcing
from longtake.schedulers.extend import Extend
from longtake.schedulers.fifo_queue import FifoQueue
from longtake.schedulers.frame_queue import FrameQueue
from longtake.schedulers.full_sequence import FullSequence
from longtake.schedulers.rolling_window import RollingWindow

__all__ = [
    "Autoregressive",
    "BlockScheduler",
    "CascadeQueue",
    "ContextWindows",
    "DiffusionForcing",
    "Extend",
    "FifoQueue",
    "FrameQueue",
    "FullSequence",
    "MethodCard",
    "RollingWindow",
]

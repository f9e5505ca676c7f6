"""Block schedulers: what is denoised, in which order."""

from longtake.schedulers.autoregressive import Autoregressive
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.fifo_queue import FifoQueue
from longtake.schedulers.full_sequence import FullSequence

__all__ = ["Autoregressive", "BlockScheduler", "FifoQueue", "FullSequence"]

"""longtake: minute-long and endless videos from ordinary video diffusion transformers.

A stranger's map of the package; imports go from the end of this list towards its beginning only:

- ``commands``: what ``longtake --help`` lists.
- ``errors``, ``task``: what users are told when something cannot be; frame ranges and tasks.
- ``schedulers``: what is denoised, in which order (pure data).
- ``noise``: the starting noise of a block.
- ``caches``: which keys and values outlive a task.
- ``models``: diffusion transformers and their VAEs behind one contract each.
- ``plan``: runs as data: actions, their check, their cost, the search for layouts.
- ``comm``: ranks talking: communicator, point-to-point channels, watchdog.
- ``strategies``: where layers, heads, tokens and guidance branches run.
- ``framework``: engine, events, and the only place that imports Lightning.
- ``demo``: what the bundled model draws.
- ``testing``: contract suites for plug-in authors, tiny models.
"""

import os

from longtake.threads import sleep_at_barriers

__version__ = "0.2.0"

sleep_at_barriers(os.environ)
# Read when PyTorch is loaded: a rank that is gone is told in a sentence, not in C++ stack traces.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

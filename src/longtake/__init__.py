"""longtake: minute-long and endless videos from ordinary video diffusion transformers.

A stranger's map of the package:

- ``schedulers``: what is denoised, in which order (pure data).
- ``noise``: the starting noise of a block.
- ``caches``: which keys and values outlive a task.
- ``strategies``: where layers, heads, tokens and guidance branches run.
- ``models``: diffusion transformers and their VAEs behind one contract each.
- ``plan``: tasks as data.
- ``framework``: engine, events, and the only place that imports Lightning.
- ``testing``: contract suites for plug-in authors, tiny models.

Importing it sets ``OMP_WAIT_POLICY``, unless the user has: see ``longtake.threads``.
"""

import os

from longtake.threads import sleep_at_barriers

__version__ = "0.1.0"

sleep_at_barriers(os.environ)

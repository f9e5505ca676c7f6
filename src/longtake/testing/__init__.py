"""Test kit: contract suites for plug-ins, tiny models, synthetic clips and their judge.

- :mod:`longtake.testing.contracts`: pytest classes that every scheduler, noise, cache, strategy,
  backbone and decoder passes, ours and yours. Subclass one and say how to make your own.
- :mod:`longtake.testing.tiny.base`: random-weight models small enough for a test.
- :mod:`longtake.testing.tiny.published`: folders of every family as they are published, but small.
- :mod:`longtake.testing.ranks`: processes joined as ranks, kept for all tests.
- :mod:`longtake.demo.shapes`, :mod:`longtake.demo.judge`: what the demo model draws.

Nothing is imported here: the contracts need pytest, the rest does not.
"""

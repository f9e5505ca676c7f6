"""CUDA's rules, emulated on CPUs: what would hang or drain on GPUs does so here.

Between ranks on CPUs everything goes on by itself, so a run that hangs under NCCL passes. An
:class:`~longtake.testing.cuda_rules.device.EmulatedDevice` keeps what CUDA and NCCL do:

- a transfer or an exchange holds up its queue from when one side begins it until both have;
- streams share few hardware queues: there is no progress beside one that is held up;
- a wait for the whole device (``synchronize``, memory that is given back, a teardown, the first
  launch of a kernel, which loads it) waits for everything that has begun;
- the messages of a communicator come in one order on all ranks.

A rank that waits for longer than anything here can take raises
:class:`~longtake.testing.cuda_rules.device.Hang`.
"""

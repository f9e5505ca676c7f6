"""Commands of ``longtake``: what ``longtake --help`` lists, said without PyTorch and the models.

Importing those takes seconds. What a command takes is said by the classes that its options are
made from; see ``longtake.framework.cli``.
"""

from __future__ import annotations

from typing import Final

from jsonargparse import ArgumentParser

NAME: Final = "longtake"
DESCRIPTION: Final = (
    "Minute-long and endless videos from ordinary video diffusion transformers. "
    "Try: longtake predict --config configs/demo.yaml"
)
COMMANDS: Final = {
    "predict": "Make the videos.",
    "plan": "Print what a run would do: which rank holds which layers, how long it would take.",
    "models": "List the models that can be run, plug-ins included, and what each takes.",
    "configs": "List the ready configurations for --config NAME: what each makes and needs.",
    "methods": "List the methods that can be run, plug-ins included: what each is for and costs.",
    "strategies": "List the strategies that runs on several devices can have: what each divides.",
    "convert": "Write a PyTorch checkpoint as safetensors, which longtake reads.",
    "doctor": "Say what this machine has and what works on it, for a report of a bug.",
    "calibrate": "Measure this machine, in less than two minutes: longtake plan --profile FILE.",
    "verify": "Compare a model on its real weights with diffusers' own pipeline, for a report.",
}
"""The first lines of the methods of ``InferenceTrainer``."""


def summary() -> str:
    """Return what ``longtake --help`` prints."""
    parser = ArgumentParser(prog=NAME, version="", description=DESCRIPTION)
    # As Lightning adds it.
    text = "Path to a configuration file in json or yaml format."
    parser.add_argument("-c", "--config", action="config", help=text)
    commands = parser.add_subcommands()
    for name, does in COMMANDS.items():
        commands.add_subcommand(name, ArgumentParser(description=does), help=does)
    return str(parser.format_help())

"""Parser of the command line: one sentence for a mistake, exit status 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse.typing import lazy_instance
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from longtake.framework.console.messages import explain


class OptionMistake(SystemExit):
    """Ends the parsing, from however deep: parsers of parts try other readings after an error.

    Args:
        sentence: What is wrong.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(2)
        self.sentence = sentence


class OneSentenceParser(LightningArgumentParser):
    """Says what is wrong in one sentence instead of the whole usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviated option would silently become another one as soon as options are added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    @override
    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add a class's options; an option's value is never the name of a file to read it from.

        Otherwise ``--data.prompts prompts.jsonl`` would take the raw lines as prompts.
        """
        kwargs["sub_configs"] = False
        added: list[str] = super().add_class_arguments(*args, **kwargs)
        typed: list[Any] = [*self._actions]  # of jsonargparse, whose classes are not exported
        for action in typed:
            allow_alone(action)
            # A field's default_factory gives an object; the parser shows and dumps classes.
            if action.dest in added and type(action.default).__module__.startswith("longtake."):
                lazy = lazy_instance(type(action.default))
                action.default = action.normalize_default(lazy)
        return added

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what was given.

        Raises:
            OptionMistake: Always; says it in one line.
        """
        raise OptionMistake(explain(message, set(_options(self)))) from ex


def allow_alone(action: Any) -> None:
    """Let an option of true or false be given without its value: ``--overwrite``."""
    if getattr(action, "_typehint", None) is bool and action.option_strings:
        action.nargs, action.const = "?", "true"


def _options(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name.removeprefix("--") for name in action.option_strings if "--" in name)
        if isinstance(action.choices, dict):  # the parsers of the subcommands
            for choice in action.choices.values():
                yield from _options(choice)

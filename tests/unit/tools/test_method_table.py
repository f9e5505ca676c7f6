"""The page of methods has the tables as the code gives them, and settings that can be."""

from __future__ import annotations

import re

import pytest
import yaml
from jsonargparse import ArgumentParser

import longtake.schedulers
import method_table
from longtake.framework.console.methods_report import schedulers
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.schedulers import MethodCard
from longtake.testing.pairs import CACHES, SCHEDULERS

CARDS = {card.method: card for scheduler in schedulers() for card in scheduler.cards}


def test_the_page_has_the_tables_as_they_are_now() -> None:
    page = method_table.PAGE.read_text(encoding="utf-8")
    assert method_table.replaced(page) == page, "python tools/method_table.py --write"


def test_no_cell_is_empty() -> None:
    page = method_table.PAGE.read_text(encoding="utf-8")
    table = page.split(method_table.comment("pairs", "begin"))[1]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.MULTILINE)
    assert [name for name, _ in rows] == list(SCHEDULERS)
    for _, cells in rows:
        each = cells.split("|")
        assert len(each) == len(CACHES)
        assert all("equal" in cell or "refused (" in cell for cell in each)


def test_every_scheduler_is_in_the_table_and_has_a_card() -> None:
    names = set(longtake.schedulers.__all__) - {"BlockScheduler", "MethodCard"}
    assert set(SCHEDULERS) == names
    assert {scheduler.__name__ for scheduler in schedulers() if scheduler.cards} == names


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_settings_of_a_card_are_options_of_the_model(card: MethodCard) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GenerationConfig, "model")
    options = [f"--model.{name}={value}" for name, value in card.settings.items()]
    config = parser.parse_args(["--model.pipeline=demo", *options]).model
    timesteps, steps = config.timesteps, config.steps
    told = len(timesteps) if timesteps is not None else steps
    assert told in (None, card.steps)
    text = "\n".join(f"{name}: {value}" for name, value in card.settings.items())
    assert yaml.safe_load(text).keys() == card.settings.keys(), "not what it is in a YAML file"

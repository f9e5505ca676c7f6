"""Every class of errors has a code of its own, and stands in the documentation."""

from __future__ import annotations

import re

import error_codes
from longtake.errors import LongtakeError, NumbersError
from longtake.plan.errors import PlanError


def test_every_class_has_a_code_of_its_own() -> None:
    found = error_codes.classes()
    assert found[0] is LongtakeError
    assert {PlanError, NumbersError} < set(found)
    codes = [one.code for one in found]
    assert len(set(codes)) == len(codes), "two classes share a code, or one has inherited it"
    assert all("code" in vars(one) for one in found)
    assert all(re.fullmatch(r"LT-[A-Z]+", code) for code in codes)


def test_the_page_is_made_from_the_classes() -> None:
    page = error_codes.PAGE.read_text(encoding="utf-8")
    assert page == error_codes.page(), "run python tools/error_codes.py --write"

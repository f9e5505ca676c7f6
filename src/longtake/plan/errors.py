"""PlanError: a plan that cannot be carried out."""

from __future__ import annotations

from typing import ClassVar

from longtake.errors import LongtakeError


class PlanError(LongtakeError):
    """A plan that is malformed, contradicts itself or would never end.

    The message names the rank and the action, and what is missing or wrong.
    """

    code: ClassVar[str] = "LT-PLAN"

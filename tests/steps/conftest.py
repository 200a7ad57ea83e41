"""Fixtures of the tests of the steps."""

from tests.steps.night import computed_project, night

__all__ = ["computed_project", "night"]

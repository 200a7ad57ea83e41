"""Fixtures shared by all tests: a real S3 server, a real project folder, real databases."""

import pytest

pytest_plugins = ["tests.fixtures_s3", "tests.fixtures_project"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that no process is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

"""Fixtures shared by all tests: a real S3 server, a real project folder, real databases."""

pytest_plugins = ["tests.fixtures_s3", "tests.fixtures_project"]

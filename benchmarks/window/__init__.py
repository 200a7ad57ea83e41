"""One billing window, measured against what a user would write by hand. ``python -m benchmarks.window --help``.

Contestants are separate programs on the same collected events: ``ours``, ``duckdb_statement``, ``polars_stream`` and
``chdb_statement`` make the usage of a window, ``duckdb_rewrite`` only drops its duplicates. ``lake`` makes the billing
project they read, ``answers`` compares what they made, ``scenarios`` says which of them run on what and how often.
"""

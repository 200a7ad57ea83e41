"""Collect, measured against what a user would write by hand. ``python -m benchmarks.collect --help``.

Contestants are separate programs (``ours``, ``duckdb_bare``, ``polars_scan``, and ``fetch``, which only downloads).
``measure`` runs one of them and says what it cost, ``scenarios`` which of them run on what and how often, ``table``
turns the results into the tables of docs/benchmarks.md.
"""

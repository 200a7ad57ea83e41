"""A process that rates slices; it is no part of ``rate_slices``, whose tasks it could not tell from its own."""

from __future__ import annotations

from pipeline.adapters.child_process import serve
from pipeline.steps.rate_slices import work

if __name__ == "__main__":
    serve(work)

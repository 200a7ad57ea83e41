"""Nightly usage billing that can be re-run and proved.

Read in this order: ``core`` (the rules, pure), ``adapters`` (one module per outside technology),
``steps`` (the order of work), ``cli`` (the same steps from a shell). ``docs/architecture.md`` draws it.
"""

__version__ = "0.1.0"

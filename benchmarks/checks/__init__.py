"""What the checks of a large night cost: the suites of raw events and usage events."""

"""What the pipeline is measured with: a generator of usage feeds, and harnesses that run it beside the alternatives."""

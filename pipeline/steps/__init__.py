"""The order of work: read, decide (core, sql), publish. One module per step."""

"""Rules: pure functions and values. No file, network, clock or database is reached from here."""

"""Technology: one module per outside thing. No billing rule lives here."""

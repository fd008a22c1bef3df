"""Data sets to hand on: rows of stored results in the formats that other tools read, with a card."""

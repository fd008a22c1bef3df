"""The report of a grid: tables, plots, one self-contained HTML page, and the way back from a row to its origin."""

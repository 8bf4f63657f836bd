"""Pages from rows: everything that stands between markers, and whole pages of tables, rebuilt from docs/results/."""

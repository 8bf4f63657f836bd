"""Numbers: students, controls, and what may be said of their difference."""

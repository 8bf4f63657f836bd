"""Tables, plots and pages: functions of measurements, never typed."""

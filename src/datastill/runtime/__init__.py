"""Files, locks, seeds, devices and progress: what every room stands on."""

"""The studies beside the KD x calibration grid: each one's params and runs, registered by stem."""

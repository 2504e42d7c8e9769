"""Tasks, training, measuring, explaining. Computation only: no bus, no clock."""

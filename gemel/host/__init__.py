"""How every service runs: settings, logs, metrics, signals, systemd, worker processes."""

"""The ports on real technology: MQTT, an EVM chain, SQLite, files."""

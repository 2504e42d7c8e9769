"""Gemel: self-optimising digital twins over MQTT, learning together under encryption, decided on chain."""

"""The demo plant: real data, real parts, one command."""

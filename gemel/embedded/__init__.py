"""What a one-machine plant needs and installs with pip: an MQTT broker and a persistent chain."""

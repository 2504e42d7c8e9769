"""Edge agent: sensors → twin → inference; takes part in rounds; installs what the chain approved."""

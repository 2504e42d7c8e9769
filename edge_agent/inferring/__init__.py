"""What the model in use says of the machine, and whether the machine has drifted from what it learnt."""

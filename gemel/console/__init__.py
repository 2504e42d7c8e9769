"""What a person uses: the gemel command, the auditor."""

"""Target descriptions. Data only."""

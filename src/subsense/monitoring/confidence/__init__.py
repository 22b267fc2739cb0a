"""How far outputs can be trusted: temperatures, conformal sets and abstention, found for each combination."""

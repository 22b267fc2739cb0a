"""What is known of inputs and outputs in service: audit, confidence, monitor."""

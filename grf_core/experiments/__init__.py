"""What GRF is measured against: other models of the same interface, what they cost, and the experiments themselves."""

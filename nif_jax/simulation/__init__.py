"""What is known of simulated data: bounds, traffic."""

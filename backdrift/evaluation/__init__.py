"""What is measured of a trained model or of chains, and drawn."""

"""What the channels service says: sales heard, buyers, pushes accepted, drift, connections."""

"""What inventory says and is told: items, levels, reservations, movements, and the commands for them."""

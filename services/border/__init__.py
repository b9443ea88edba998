"""What services share that meet the outside world: calls, secrets, doors, card numbers. No service itself."""

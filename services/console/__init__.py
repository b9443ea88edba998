"""People's way in: the `saldo` command, and the demo with its verdict."""

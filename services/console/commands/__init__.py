"""The commands of `saldo`, one file a noun."""

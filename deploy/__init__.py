"""Everything that runs Saldo: servers and services on one machine, compose files for Docker."""

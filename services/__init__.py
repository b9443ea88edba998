"""The services of Saldo, one folder each; they talk only through Kafka topics."""

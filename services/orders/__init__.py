"""The life of every order: what channels report and inventory answers becomes states, facts and demand."""

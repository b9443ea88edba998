"""What the payments service obeys and says: the money of every order."""

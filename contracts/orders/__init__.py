"""What the orders service says: the life of every order."""

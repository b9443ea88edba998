"""What comes in from channels: the door and the pull loops store it, absorb makes sales of it."""

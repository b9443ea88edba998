"""What the erp service says: fiscal documents taken in, and what was booked where."""

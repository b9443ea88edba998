"""Other systems that sales are booked in: one file each."""

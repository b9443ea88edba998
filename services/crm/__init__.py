"""crm: who the buyers are. One customer across channels, what we may do with what we know, and how it is forgotten."""

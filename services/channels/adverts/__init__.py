"""Reading every advert of a connection from its channel."""

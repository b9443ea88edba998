"""One file a marketplace; nothing about a particular marketplace exists outside its file."""

"""What can stand in a network's way: objects that see each frame of a backend, keep it, copy it, or delay it."""

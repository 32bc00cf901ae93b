"""Forward passes of trained networks, and the cache of the teacher's answers."""

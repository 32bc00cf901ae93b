"""The networks: teachers, students, and what can be done with any of them."""

"""InternVL3.5: describes pictures and answers text."""

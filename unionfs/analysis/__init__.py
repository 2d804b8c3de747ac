"""Answers about stacks and images: pure functions over entries, which know neither store nor screen."""

"""What a file's metadata and PEFT configuration say about how its tensors are meant, and which methods are refused by name."""

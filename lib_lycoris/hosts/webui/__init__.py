"""The webuis (AUTOMATIC1111 and the Forges) as hosts; what differs between them is in adapters/."""

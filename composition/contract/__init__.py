"""Generation of the client's code and of the documentation from the definitions of requests and responses."""

"""The one definition of requests and answers, written out for those who cannot import it: the client, and the docs."""

"""Structure providers: a request in, Atoms out."""

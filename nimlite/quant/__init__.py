"""Weight formats: one module a scheme, each a pair convert/apply (`pack`, `unpack`) and its plain-torch linear."""

"""The command `esamp`: one file a verb. Data goes to stdout, talk to stderr."""

"""The networks: one file a family, each built from ops in Python."""

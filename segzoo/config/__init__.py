"""Names and settings of a configuration, turned into objects."""

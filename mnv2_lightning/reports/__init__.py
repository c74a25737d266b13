"""Tables and figures of records and arrays. Imports no torch."""

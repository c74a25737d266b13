"""Pictures that are not of the data set: read, and brought into its form."""

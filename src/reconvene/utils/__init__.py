"""What every room needs and no room owns: files that are whole or not there, tables, states of modules."""

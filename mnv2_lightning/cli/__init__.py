"""From a command line to a function: composing, checking, errors, exit statuses."""

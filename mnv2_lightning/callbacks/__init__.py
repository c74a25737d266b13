"""Our callbacks. Lightning's own are configured in `conf/callbacks/`."""

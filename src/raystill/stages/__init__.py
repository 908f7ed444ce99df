"""The line's verbs, one file each: a plain function from configuration and inputs to what it wrote. None imports another."""

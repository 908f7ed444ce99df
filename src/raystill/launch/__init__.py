"""A recipe on a cluster: what each stage asks Kubernetes for, as documents."""

"""What runs on a train worker, and what reads and writes its files. Stages start it; it knows no stage."""

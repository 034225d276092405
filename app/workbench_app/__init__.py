"""The dashboard: techniques side by side with their baseline, probes on a prompt, and what the registry knows."""

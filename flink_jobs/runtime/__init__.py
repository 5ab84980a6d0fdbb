"""Everything the job runs on: the environment, Java, a broker, Redis, Loki and a standalone cluster."""

# The same steps as ./submit.sh, under the names that make users expect; `make` lists them.
.PHONY: help check test demo format requirements clean dashboards image secrets minikube

help:
	@echo "make check         formatting, lint, types, unit and operator tests (a minute)"
	@echo "make test          check, then the mini-cluster and the real broker, Redis, Loki and cluster"
	@echo "make demo          the demo"
	@echo "make format        formats the code"
	@echo "make dashboards    writes the dashboards' JSON"
	@echo "make image         builds the container image"
	@echo "make secrets       docker/.env with new passwords, for docker/compose.yaml"
	@echo "make minikube      everything on a Minikube that runs"
	@echo "make requirements  compiles requirements.in to requirements.txt"
	@echo "make clean         removes caches; .venv/ stays"

check:
	./submit.sh test --quick

test:
	./submit.sh test

demo:
	./submit.sh demo

format:
	.venv/bin/ruff format .

# --universal: the same file serves Linux and macOS, by markers. Versions in requirements.txt stay unless requirements.in
# asks for others; remove the file first to take the newest of everything.
requirements:
	.venv/bin/uv pip compile requirements.in --override requirements.override --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --quiet --output-file requirements.txt

dashboards:
	.venv/bin/python docker/grafana/dashboards.py

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

image:
	docker build -f docker/Dockerfile -t driftwood:$(VERSION) .

secrets:
	docker/new_env.sh

# The operator needs certificates for its webhook, which are left out here (webhook.create=false).
OPERATOR := 1.15.0
minikube:
	minikube image build -t driftwood:$(VERSION) -f docker/Dockerfile .
	helm upgrade --install flink-kubernetes-operator --namespace flink-operator --create-namespace --set webhook.create=false \
	  --repo https://downloads.apache.org/flink/flink-kubernetes-operator-$(OPERATOR)/ flink-kubernetes-operator
	docker/kubernetes/overlays/minikube/secrets.sh
	minikube kubectl -- apply -k docker/kubernetes/overlays/minikube

clean:
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find flink_jobs udfs models tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything a fresh machine needs: `make run` and `make test` install their
# own prerequisites (Debian packages, by apt) and say what they do.

CARGO ?= cargo
# Root only where root is needed.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TARGET := $(or $(CARGO_TARGET_DIR),target)
STAGE := $(TARGET)/stage

.PHONY: all build run test lint bench setup stage clean

all: build

## Debian packages, only those that are missing
setup:
	@SUDO="$(SUDO)" tests/scripts/setup.sh

build:
	$(CARGO) build --release --workspace --locked

## Binary and drivers with safe owners and modes, beside each other
stage: build
	@SUDO="$(SUDO)" TARGET="$(TARGET)" tests/scripts/stage.sh "$(STAGE)"

## A real container from a real image, through drivers named in a TOML file
run: setup stage
	@SUDO="$(SUDO)" CARGO="$(CARGO)" TARGET="$(TARGET)" tests/scripts/run.sh "$(STAGE)"

## Every test; needs root for namespaces and mounts
test: setup
	@SUDO="$(SUDO)" CARGO="$(CARGO)" TARGET="$(TARGET)" tests/scripts/test.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path tests/third-party/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path tests/fixtures/Cargo.toml
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

## Figures against the runtime itself and against other tools, in one run
bench: setup stage
	@SUDO="$(SUDO)" tests/scripts/bench.sh "$(STAGE)"
	@SUDO="$(SUDO)" tests/scripts/bench-images.sh "$(STAGE)"
	@SUDO="$(SUDO)" tests/scripts/bench-registry.sh "$(STAGE)"
	$(CARGO) build --release --locked -p containerkit-tests --example collect --example stores
	$(SUDO) "$(TARGET)/release/examples/collect"
	@SUDO="$(SUDO)" tests/scripts/bench-stores.sh "$(TARGET)/release/examples/stores"

clean:
	$(CARGO) clean

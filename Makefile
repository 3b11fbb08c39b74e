# The commands of this project. `make demo` and `make test` work on a bare machine with only
# Rust, make and apt: they install what is missing, and are quick when nothing is.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)

.PHONY: demo test test-user crash attacks attacks-weak lint bench setup setup-demo setup-test setup-lint clean-demo

# Builds the release binary and with it, in a sandbox, an image; shows the image running.
demo: setup-demo
	$(CARGO) build --release -p cofferdam
	scripts/demo.sh $(TARGET)/release/cofferdam $(TARGET)/demo

# Every test of the workspace: units, components, and the whole program end to end.
# The program is built together with the tests, so that they share their dependencies.
test: setup-test
	$(CARGO) build --workspace --all-targets
	COFFERDAM_BIN=$(TARGET)/debug/cofferdam CARGO="$(CARGO)" scripts/test.sh

# The end-to-end tests by an ordinary user, and by one who has no privilege at all. As root.
test-user: setup-test
	$(CARGO) build --workspace --all-targets
	frontends-wasm/build.sh $(TARGET)/guests
	e2e=$$(ls -t $(TARGET)/debug/deps/e2e-* | grep -v '\.d$$' | head -n 1) && cd tests && \
		export COFFERDAM_BIN=$(TARGET)/debug/cofferdam COFFERDAM_TEST_GUESTS=$(TARGET)/guests && \
		../scripts/test-as-user.sh $$e2e && ../scripts/test-as-user.sh --alone $$e2e

# The crash tests at full length; `make test` runs some rounds of them. SEED repeats a run.
crash: setup-test
	$(CARGO) build -p cofferdam
	COFFERDAM_BIN=$(TARGET)/debug/cofferdam COFFERDAM_CRASH_ROUNDS=$(or $(ROUNDS),600) \
		$(if $(SEED),COFFERDAM_CRASH_SEED=$(SEED)) \
		$(CARGO) test -p cofferdam-tests --test crash -- --nocapture

# The attack tests, with races that run ten times as long; `make test` runs them, too.
attacks: setup-test
	$(CARGO) build --workspace --all-targets
	COFFERDAM_BIN=$(TARGET)/debug/cofferdam COFFERDAM_ATTACK_ROUNDS=$(or $(ROUNDS),10) \
		$(if $(SEED),COFFERDAM_ATTACK_SEED=$(SEED)) CARGO="$(CARGO)" \
		scripts/test.sh --test attacks

# Shows that the attack tests notice: each has to fail on an engine that is made weak for it.
attacks-weak: setup-test
	CARGO="$(CARGO)" tests/attacks/weak.sh

# Formatting, lints as errors, licences and advisories, and whether weaknesses still apply.
lint: setup-lint
	$(CARGO) fmt --all --check
	tests/attacks/weak.sh --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	CARGO="$(CARGO)" scripts/deny.sh

# The scenarios of docs/performance.md; `make bench SCENARIO=RUN` measures some of them, and
# `make bench SCENARIO=growth` draws how cost grows into docs/plots.
bench: setup-test
	$(CARGO) build --release -p cofferdam
	COFFERDAM_BIN=$(TARGET)/release/cofferdam \
		$(CARGO) run --release -p cofferdam-tests --bin bench -- $(SCENARIO)

# Everything that any of the above needs.
setup: setup-test setup-lint

setup-demo:
	@scripts/setup.sh build demo

setup-test:
	@scripts/setup.sh build demo test

setup-lint:
	@scripts/setup.sh build lint

clean-demo:
	rm -rf $(TARGET)/demo

# The two commands of a fresh machine are `make demo` and `make test`. Each command here installs
# the Debian packages that it needs.

CARGO ?= cargo
DEMO_PACKAGES = nginx libssl-dev pkg-config gcc curl openssl ca-certificates
TEST_PACKAGES = $(DEMO_PACKAGES) buildah mmdebstrap haproxy apache2-bin stunnel4 lighttpd lighttpd-mod-openssl unbound valgrind \
	apparmor bind9-dnsutils certbot chromium dovecot-imapd faketime fonts-dejavu-core iproute2 knot libtss2-esys-3.0.2-0 \
	libtss2-rc0 libtss2-tcti-swtpm0 nodejs openjdk-17-jre-headless openssh-client pebble perl postgresql-15 prometheus \
	prometheus-node-exporter protobuf-compiler putty-tools python3-cryptography python3-grpcio python3-protobuf strace swtpm systemd
# For another one apt removes the mail server of this machine.
TEST_PACKAGES += $(if $(wildcard /usr/sbin/sendmail),,postfix)
# What Debian offers instead of Keyward, to measure beside.
BENCH_PACKAGES = libengine-pkcs11-openssl softhsm2
# How long `make soak` runs each fuzz target.
FUZZ_SECONDS = 60

# Modules of tests/tests/e2e that are about OpenSSL.
OPENSSL_TESTS = versions hosts asynchronous configurations reference_files finite_fields resumption rsa_key_exchange \
	signature_algorithms

# Tests with a long form beside the short one in `make test`: program/module, in tests/tests.
SOAK_TESTS = e2e/purpose shares/fairness shares/connections shares/services e2e/master_key e2e/acme e2e/protect e2e/packages

# Names the tests that could not do their work here: without root, or in a container. They enter
# themselves.
define LEFT_OUT
if [ -s target/left-out ]; then \
	sort -u target/left-out; \
	echo "left out: $$(sort -u target/left-out | wc -l) tests or parts of tests, see above"; \
fi
[ "$$(id -u)" = 0 ] || echo "not root: servers were not seen to change their user"
endef

# Everything that the tests run and load. Cargo gives dependencies the features that the chosen
# targets need, and builds them once more for other targets. So lint, build and tests choose the
# same ones: all of the workspace, tests included.
BUILD_TESTS = $(CARGO) build --release --workspace --lib --bins --tests --examples

# The inner loop: own crates without optimisation, whose dependencies are those of the other builds.
QUICK = CARGO_INCREMENTAL=1 $(CARGO) --config 'profile.release.package.keyward.opt-level=0'

.PHONY: all check demo test test-openssl-4 soak bench packages image release lint install-demo install-test

all: install-demo
	$(CARGO) build --profile dist -p keyward -p keyward-openssl -p keyward-acme -p keyward-deploy

# nginx serves TLS with a key that it never had; ends with nothing running.
demo: install-demo
	$(CARGO) build --release -p keyward -p keyward-openssl
	conf/demo

# Formatting, clippy and unit tests, to run while you work. Unit tests convert keys with programs
# that only the packages of the tests have.
check: install-test
	$(CARGO) fmt --all --check
	.ci/check-comments
	CARGO_INCREMENTAL=1 $(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(QUICK) test --release --workspace --lib

# Everything that CI runs. OpenSSL and a clean Debian are made beside the rest, which leaves a
# processor idle at times.
# Tests wait more than they compute, so there is one more thread than processors, except for the
# programs that measure: load, shares, soak and unit_connections.
test: install-test
	@tests/openssl/build 3.5 >/dev/null & openssl=$$!; tests/debian/build >/dev/null & debian=$$!; status=0; \
	{ $(MAKE) --no-print-directory lint && $(BUILD_TESTS); } || status=$$?; \
	wait $$openssl || status=$$?; wait $$debian || status=$$?; exit $$status
	@rm -f target/left-out
	RUST_TEST_THREADS=3 $(CARGO) test --release --workspace --lib --bins --test '[!lsu]*'
	$(CARGO) test --release --workspace --test '[lsu]*'
	$(CARGO) test --release --workspace --doc
	@$(LEFT_OUT)

# The tests of the provider on OpenSSL 4.0 too, which is built for that, and a provider for it. The
# first time it takes minutes, so it is no part of `make test`.
test-openssl-4: install-test
	$(CARGO) build --release -p keyward -p keyward-openssl
	tests/openssl/build 3.5 >/dev/null
	home=$$(tests/openssl/build 4.0) && export OPENSSL_DIR=$$home C_INCLUDE_PATH=$$home/include LD_LIBRARY_PATH=$$home/lib && \
	$(CARGO) build --release -p keyward-openssl --target-dir target/for-openssl-4.0 && \
	$(CARGO) test --release -p keyward-openssl --target-dir target/for-openssl-4.0
	$(CARGO) test --release -p keyward-tests --features openssl-4 --test e2e -- $(addsuffix ::,$(OPENSSL_TESTS))

# The same tests as in `make test` for longer and with larger counts, one after another, with their
# figures, then the fuzzer, then two builds that must be the same. Takes more than an hour.
soak: install-test
	$(BUILD_TESTS)
	tests/openssl/build 3.5 >/dev/null
	tests/debian/build >/dev/null
	@rm -f target/left-out
	@set -e; for test in $(SOAK_TESTS); do \
		echo "soak: $$test, since $$(date +%H:%M)"; \
		KEYWARD_SOAK=1 $(CARGO) test --release --workspace --test $${test%/*} -- $${test#*/}:: --nocapture --test-threads=1; \
	done
	KEYWARD_SOAK=1 $(CARGO) test --release --workspace --test daemon -- real_key_exchanges a_killed_unit --nocapture
	KEYWARD_SOAK=1 $(CARGO) test --release --workspace --test daemon -- kill_9_under_load --nocapture
	KEYWARD_SOAK=1 $(CARGO) test --release --workspace --test daemon -- many_keys_are_wrapped_anew --nocapture
	KEYWARD_SOAK=1 $(CARGO) test --release --workspace --test soak -- --nocapture
	@$(LEFT_OUT)
	CARGO="$(CARGO)" .ci/fuzz $(FUZZ_SECONDS)
	CARGO="$(CARGO)" .ci/two-builds

# Debian packages in target/packages, and the remarks of lintian.
packages: all
	@.ci/install-packages dpkg-dev lintian python3
	.ci/packages dist
	lintian --fail-on error,warning target/packages/*.deb

# A container image in target/image, an OCI archive. Needs root.
image: install-demo
	@.ci/install-packages buildah python3
	$(CARGO) build --profile dist -p keyward
	.ci/image dist

# The files of a release in target/release-files: docs/releases.md. KEY=FILE signs the checksums.
release: install-demo
	@.ci/install-packages dpkg-dev openssh-client python3
	CARGO="$(CARGO)" .ci/release
	CARGO="$(CARGO)" KEY="$(KEY)" .ci/release-files for-release/dist

lint: install-demo
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release -p keyward-rustls -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --release --workspace --no-deps \
		--document-private-items --lib --examples $(patsubst tests/src/bin/%,--bin %,$(basename $(wildcard tests/src/bin/*)))
	.ci/check-dependencies
	.ci/check-comments
	.ci/check-versions
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --offline --locked check bans licenses sources; \
	else \
		echo "not checked here: licences and sources of dependencies, since cargo-deny is not installed"; \
	fi

# Speed and cost, all of it or PARTS="--quick handshakes"; see tests/src/bin/bench/main.rs. Not a
# test: machines differ.
bench: install-test
	@.ci/install-packages $(BENCH_PACKAGES)
	$(CARGO) build --profile dist --workspace
	target/dist/bench $(PARTS)

install-demo:
	@CARGO="$(CARGO)" .ci/check-rust
	@.ci/install-packages $(DEMO_PACKAGES)

install-test:
	@CARGO="$(CARGO)" .ci/check-rust
	@.ci/install-packages $(TEST_PACKAGES)

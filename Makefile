# What one does with Cairn from a clone. `make` alone lists it.
#   PREFIX, DESTDIR, SYSCONFDIR: as usual, for `install`.
#   CAIRN_BIN: folder of the binaries that the Python and end-to-end tests, the demo and the benchmark start.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PREFIX ?= /usr
SYSCONFDIR ?= /etc
DESTDIR ?=
PYTHON := $(CURDIR)/.venv/bin/python
# Tests and demo start daemons of their own.
unexport CAIRN_SOCKET
export CAIRN_BIN ?= $(CURDIR)/.build/release

# Linked with Swift's own libraries, so that an installed binary needs no toolchain beside it.
RELEASE := swift build -c release --static-swift-stdlib

.PHONY: help run test damage test-mutations simulate soak build release install clean bench ablation scale wheel deb api session setup setup-frameworks check-systemd test-swift test-python crash fuzz sanitize

help:
	@printf '%s\n' \
	  'make run       build, start the daemon, train a real model, kill it, restore it bit-exactly (about 2 minutes)' \
	  'make test      all tests: Swift, Python, end to end, systemd units' \
	  'make build     debug build            make release   release build of cairnd and cairn' \
	  'make simulate  SEEDS=2000: that many histories of daemons, ranks and faults against the engine; SEED=n: one, with every event' \
	  'make scale     what a job of 1,024 ranks asks of its shared folder (2 minutes); SCALE=full: of 8,192 (15 minutes)' \
	  'make soak      MINUTES=60: eight ranks save, restore and are killed, while what the daemon takes is watched and plotted' \
	  'make crash     CRASHES=200 KILLS=2000: power lost, and processes killed, at so many seeded moments (45 minutes); tables of both' \
	  'make damage    CASES=5000 SEED=1: that many damaged bytes and files on both tiers, each followed by ls, verify and restores' \
	  'make fuzz      SECONDS=60: libFuzzer that long against each parser of what clients and disks say; PARSER=name: one of them' \
  'make sanitize  the Swift tests under the thread and the address sanitizer' \
	  'make bench     side by side with six peers and the limits of the machine, as ratios (12 minutes); BENCH=--quick: a minute or two' \
  'make ablation  what each mechanism of staging and writing buys, one thing changed at a time (5 minutes)' \
	  'make install   DESTDIR=… PREFIX=/usr: binaries, configuration, systemd units, man pages, completion' \
	  'make wheel     dist/*.whl: the Python client with both programs in it (`pip install .` makes it too)' \
	  'make deb       dist/*.deb: a Debian package with programs, units, account, man pages, completion' \
	  'make api       Docs/api.md from the docstrings' \
	  'make session   Docs/session.svg, the picture of a terminal in README.md, from a real run' \
	  'make clean     remove what was built and .venv'

setup:
	@scripts/setup.sh

setup-frameworks:
	@scripts/setup.sh frameworks

build: setup
	swift build

release: setup
	$(RELEASE) --product cairnd
	$(RELEASE) --product cairn

run: release
	scripts/demo.sh

# Each Swift test has a limit of its own; the bounds here are for a test that hangs all the same. Of Swift's tests those that
# fail are shown, and a line for each suite.
test: check-python test-swift test-mutations test-python check-systemd
	@echo 'make test: all passed'

# First, because it takes seconds.
check-python: setup
	cd Python && ../.venv/bin/ruff check --no-cache . ../Examples ../Benchmarks ../Tests/EndToEndTests ../Tests/Mutations ../Tests/Soak ../scripts
	cd Python && ../.venv/bin/mypy --strict --cache-dir ../.build/mypy
	cd Benchmarks && MYPYPATH=../Python ../.venv/bin/mypy --strict --cache-dir ../.build/mypy-bench --config-file ../Python/pyproject.toml \
	  bench.py ablation.py footprint.py ranks.py plots.py subjects

test-swift: setup
	timeout --kill-after=30 1200 swift build --build-tests
	timeout --kill-after=30 1200 swift test --skip-build 2>&1 | grep --line-buffered -vE '^(◇|✔ Test [^ ]+\()|started\.$$'

# The simulation has teeth: each of a list of mistakes in the engine is caught by it.
test-mutations: setup
	timeout --kill-after=30 1500 $(PYTHON) -m pytest -c Python/pyproject.toml --rootdir . -q -s --import-mode importlib \
	  --timeout 1400 -p no:cacheprovider Tests/Mutations

# With the engine's own checks and their reasons, which a release build would leave out.
SEEDS ?= 2000
simulate:
	swift build -c release --scratch-path .build/simulate -Xswiftc -assert-config -Xswiftc Debug --product cairn-simulate
	.build/simulate/release/cairn-simulate $(if $(SEED),--seed $(SEED) --verbose --table,--seeds $(SEEDS)) --jobs $$(nproc)

MINUTES ?= 60
soak: release
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r scripts/requirements-plots.txt
	CAIRND_BINARY="$(CAIRN_BIN)/cairnd" $(PYTHON) Tests/Soak/soak.py --minutes $(MINUTES) --json .build/soak.json --plot .build/soak.svg

# SEED: of the first; each further one has the next. CRASHES=1 KILLS=0 SEED=n: one loss of power again; CRASHES=0 KILLS=1: one storm.
CRASHES ?= 200
KILLS ?= 2000
crash: release
	CAIRN_CRASHES=$(CRASHES) CAIRN_KILLS=$(KILLS) CAIRN_SEED=$(or $(SEED),1) CAIRN_TEST_SECONDS=180 $(PYTHON) -m pytest \
	  -c Python/pyproject.toml --rootdir . -q -rs --import-mode importlib --timeout 240 --timeout-method thread -p no:cacheprovider \
	  Tests/EndToEndTests/test_power_loss.py Tests/EndToEndTests/test_kill_storm.py

# CAIRN_GLUSTER=full adds the outages of a GlusterFS volume that take long to be noticed.
# Not part of `make test`, which replays a fixed series (CairnFuzzTests). The number of seconds is for each parser.
SECONDS ?= 60
fuzz: setup
	CAIRN_FUZZ=1 swift build -c release --scratch-path .build/fuzz -Xswiftc -sanitize=fuzzer -Xswiftc -use-ld=lld --product cairn-fuzz
	scripts/fuzz.sh .build/fuzz/release/cairn-fuzz $(SECONDS) $(PARSER)

# Each in a build of its own (20 minutes). The exit code tells, not what the tests print: a race is an error at the process's end.
# Left out is what measures time, and looking for leaks: a world of the simulation holds itself. What a daemon keeps, the soak looks for.
sanitize: setup
	for sanitizer in thread address; do \
	  ASAN_OPTIONS=detect_leaks=0 CAIRN_SIMULATION_MINUTES=30 timeout --kill-after=30 3600 swift test --sanitize=$$sanitizer --disable-xctest --scratch-path .build/$$sanitizer \
	    --skip aHundredThousandShardsAreLaidOutQuickly; done

test-python: release setup-frameworks
	test -x "$(CAIRN_BIN)/cairnd"
	timeout --kill-after=30 2400 $(PYTHON) -m pytest -c Python/pyproject.toml --rootdir . -q -rs --durations 5 \
	  --timeout 180 --timeout-method thread -p no:cacheprovider \
	  Python/tests $(wildcard Tests/EndToEndTests)

# What `make test` does with a few hundred, with more of them.
CASES ?= 5000
damage: release
	CAIRN_DAMAGE_CASES=$(CASES) CAIRN_DAMAGE_SEED=$(or $(SEED),1) CAIRN_TEST_SECONDS=7000 timeout --kill-after=30 7200 \
	  $(PYTHON) -m pytest -c Python/pyproject.toml --rootdir . -q --timeout 7100 --timeout-method thread -p no:cacheprovider \
	  Tests/EndToEndTests/test_damage.py

check-systemd: release
	scripts/check-systemd.sh

# BENCH: options of Benchmarks/bench.py, as BENCH='--quick' or BENCH='--plots Docs'. The peers take 400 MB in .venv.
bench: release
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r scripts/requirements-bench.txt \
	  -r scripts/requirements-plots.txt
	$(PYTHON) Benchmarks/bench.py $(BENCH)

ablation: release
	$(PYTHON) Benchmarks/ablation.py $(BENCH)

# Counted by strace. FOLDER: an empty or missing folder on the filesystem to measure, else a temporary one.
scale: setup
	$(RELEASE) --product cairn-scale
	$(PYTHON) Benchmarks/Scale/scale.py $(if $(filter full,$(SCALE)),--ranks 8192) $(if $(FOLDER),--folder '$(FOLDER)')

wheel: release
	mkdir -p dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

session: release
	$(PYTHON) scripts/record_session.py

api: setup
	$(PYTHON) scripts/api_reference.py

deb: release
	scripts/deb.sh dist

# The configuration is only put where none is: it is the administrator's.
SHARE = $(DESTDIR)$(PREFIX)/share
install:
	@test -x '$(CAIRN_BIN)/cairnd' -a -x '$(CAIRN_BIN)/cairn' || { echo 'install: run `make release` first' >&2; exit 1; }
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(DESTDIR)$(PREFIX)/lib/sysusers.d' \
	  '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d' '$(SHARE)/doc/cairn' '$(DESTDIR)$(SYSCONFDIR)/cairn' '$(SHARE)/man/'man{1,5,8} \
	  '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	install -m 0755 '$(CAIRN_BIN)/cairnd' '$(CAIRN_BIN)/cairn' '$(DESTDIR)$(PREFIX)/bin/'
	for unit in cairnd.service cairnd.socket cairnd@.service; do \
	  sed 's|/usr/bin/|$(PREFIX)/bin/|; s|/usr/share/|$(PREFIX)/share/|; s|/etc/cairn/|$(SYSCONFDIR)/cairn/|' "systemd/$$unit" \
	    > '$(DESTDIR)$(PREFIX)/lib/systemd/system/'"$$unit"; \
	  chmod 0644 '$(DESTDIR)$(PREFIX)/lib/systemd/system/'"$$unit"; done
	install -m 0644 systemd/sysusers.conf '$(DESTDIR)$(PREFIX)/lib/sysusers.d/cairn.conf'
	install -m 0644 systemd/tmpfiles.conf '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/cairn.conf'
	install -m 0644 README.md Docs/*.md Docs/*.svg Config/cairnd.yaml monitoring/cairn-alerts.yaml monitoring/cairn-dashboard.json '$(SHARE)/doc/cairn/'
	pages=$$(mktemp -d); trap 'rm -rf "$$pages"' EXIT; $(PYTHON) scripts/man_pages.py '$(CAIRN_BIN)' "$$pages"; \
	  for section in 1 5 8; do install -m 0644 "$$pages"/*.$$section '$(SHARE)/man/'man$$section/; done
	'$(CAIRN_BIN)/cairn' --generate-completion-script bash > '$(SHARE)/bash-completion/completions/cairn'
	'$(CAIRN_BIN)/cairn' --generate-completion-script zsh > '$(SHARE)/zsh/site-functions/_cairn'
	'$(CAIRN_BIN)/cairn' --generate-completion-script fish > '$(SHARE)/fish/vendor_completions.d/cairn.fish'
	chmod 0644 '$(SHARE)/bash-completion/completions/cairn' '$(SHARE)/zsh/site-functions/_cairn' '$(SHARE)/fish/vendor_completions.d/cairn.fish'
	test -e '$(DESTDIR)$(SYSCONFDIR)/cairn/cairnd.yaml' \
	  || install -m 0644 Config/cairnd.yaml '$(DESTDIR)$(SYSCONFDIR)/cairn/cairnd.yaml'

clean:
	rm -rf .build .venv .pytest_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

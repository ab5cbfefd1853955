# The extension by PGXS (make, make install, make installcheck), and everything else by name.
PG_CONFIG ?= pg_config
VERSION   := $(shell sed -n "s/^default_version = '\(.*\)'$$/\1/p" extension/sqlxmq.control)
BUILT     := extension/sqlxmq--$(VERSION).sql

EXTENSION  = extension/sqlxmq
DATA       = $(wildcard extension/sqlxmq--*.sql)
NO_INSTALLCHECK = 1

all: $(BUILT)

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(and $(PGXS),$(wildcard $(PGXS))),)
include $(PGXS)
else
install:
	@echo "make install needs PostgreSQL's extension building files: install postgresql-server-dev-NN (Debian)"
	@echo "or postgresqlNN-devel, or name the right pg_config: make install PG_CONFIG=/path/to/pg_config"
	@exit 1
endif

$(BUILT): extension/sqlxmq.control sql/manifest tools/build_extension.py $(shell find sql -name '*.sql')
	python3 tools/build_extension.py

.PHONY: all install installcheck checkver demo test test-long test-crate bench bench-full bench-workers bench-senders lint docs

# The pgTAP suite, with pg_prove, against the server that PGHOST, PGPORT, PGUSER … name, in a database of
# its own. The server needs the extensions pgtap and, by make install, sqlxmq.
installcheck:
	psql -X -q -v ON_ERROR_STOP=1 -d postgres -c 'DROP DATABASE IF EXISTS sqlxmq_installcheck' -c 'CREATE DATABASE sqlxmq_installcheck'
	pg_prove -d sqlxmq_installcheck tests/pgtap/*.sql
	psql -X -q -v ON_ERROR_STOP=1 -d postgres -c 'DROP DATABASE sqlxmq_installcheck'

# The version, wherever it stands.
checkver:
	python3 tools/check_version.py

demo:
	./tools/with_python demo examples/demo.py $(ARGS)

test:
	./tools/test

# The proofs under the marker long, with many more jobs and crashes than in make test; after it.
test-long:
	SQLXMQ_LONG=1 ./tools/with_python all -m pytest tests/python -m long

lint:
	./tools/with_python all tools/lint.py

# The documentation's site, into build/docs. Warnings are errors, such as references that lead nowhere.
docs:
	./tools/with_python docs -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -b html docs build/docs
	@echo "The site is in build/docs: open build/docs/index.html"

# The client of the sqlxmq crate, built by cargo, against this extension.
test-crate:
	./tools/with_python all tests/crate/run.py

# All benchmarks with tiny numbers: whether the programs work, in minutes.
bench:
	./tools/with_python bench bench/all.py

# All benchmarks at full size, for hours, on a machine that does nothing else: figures into RESULTS, plots into PLOTS.
RESULTS ?= build/bench
PLOTS   ?= docs/plots
bench-full:
	./tools/with_python bench bench/all.py --full --results $(RESULTS) --plots $(PLOTS)

# One worker of this project beside one of each other queue; bench-workers ARGS=--quick takes a minute.
bench-workers:
	./tools/with_python bench bench/workers.py $(ARGS)

# How fast all of them take jobs in; so does bench-senders ARGS=--quick, in less than one.
bench-senders:
	./tools/with_python bench bench/senders.py $(ARGS)

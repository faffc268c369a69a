# make            builds the extensions' scripts, and those for servers where no file can be put
# make install    installs them into the PostgreSQL that pg_config names
# make installcheck   runs the SQL regression tests against a running server
# make demo       from a bare Debian or Ubuntu to a butterfly in the terminal
# make web        the page that paints in the browser, as static files in build/web; takes node and npm
# make dist       the zip that PGXN takes
# make test-versions   the tests on other versions of PostgreSQL, as root on Debian
# make test-upgrade    pg_upgrade from PostgreSQL 15 to 17, as root on Debian 12
# make test       from a bare Debian or Ubuntu to all tests passed

# (not VERSION: PGXS has that for PostgreSQL's own)
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" extension/sql_diffusion.control)
PYTHON3 ?= python3

# The reference, in the order in which it reads; the install script is these files one after the other.
SQL = \
	sql/schema.sql sql/errors.sql sql/tensors.sql sql/tables.sql sql/parallel.sql sql/parameters.sql sql/tokenizers/tables.sql sql/jobs/tables.sql sql/dump.sql sql/packed.sql sql/random.sql \
	$(addprefix sql/layers/,$(addsuffix .sql,$(LAYERS))) \
	sql/plan.sql $(OPERATIONS) build/operations.sql $(sort $(wildcard sql/blocks/*.sql)) $(NETWORKS) build/networks.sql sql/network.sql sql/autoencoders.sql sql/pack.sql \
	$(addprefix sql/tokenizers/,$(addsuffix .sql,$(TOKENIZERS))) \
	sql/schedule.sql $(SCHEDULERS) build/scheduler_registry.sql sql/schedulers.sql sql/progress.sql sql/pipeline.sql sql/text_to_image.sql sql/gpt.sql \
	$(addprefix sql/images/,$(addsuffix .sql,$(IMAGES))) sql/redraw.sql sql/verbs.sql sql/images/verbs.sql sql/jobs/verbs.sql \
	$(MODELS)

# The models that come with the extension, and those of them that came after all of the older versions: an update brings these.
# The others lie as real[] in databases of older versions, where an update leaves them.
MODELS     = build/butterflies.sql $(NEW_MODELS)
NEW_MODELS = build/prompted-butterflies.sql

# A file each; scripts/dispatchers.py makes of them the functions that choose among them.
OPERATIONS = $(sort $(wildcard sql/operations/*.sql))
NETWORKS   = $(sort $(wildcard sql/networks/*.sql))

# A file is a scheduler; build/scheduler_registry.sql lists them.
SCHEDULERS = $(sort $(wildcard sql/schedulers/*.sql))

LAYERS = feature_maps silu gelu quick_gelu geglu relu mish add concatenate pad interpolate_nearest timestep_embedding group_norm conv2d linear scaled_dot_product_attention modules layer_norm embedding resnet_block attention causal_attention attention_block downsample upsample
TOKENIZERS = unicode normalize words byte_pairs tokenize

IMAGES = image checksums huffman deflate inflate image_png image_from_png image_resize image_grid characters

EXTENSION  = extension/sql_diffusion
DATA_built = build/sql_diffusion--$(EXTVERSION).sql
DOCS       = $(wildcard doc/*.md)

# The fast path: an install script that holds the Python package.
EXTENSION  += extension/sql_diffusion_numpy
DATA_built += build/sql_diffusion_numpy--$(EXTVERSION).sql

# A server that the plain script was run on becomes one with the extension, its models kept (doc/install.md).
DATA_built += build/sql_diffusion--unpackaged.sql build/sql_diffusion--unpackaged--$(EXTVERSION).sql

# ALTER EXTENSION UPDATE, from each older version whose install scripts are kept
UPDATES     = $(patsubst tests/releases/%.sql,build/%--$(EXTVERSION).sql,$(wildcard tests/releases/*.sql))
DATA_built += $(UPDATES)

REGRESS      = $(patsubst tests/sql/%.sql,%,$(wildcard tests/sql/*.sql))
REGRESS_OPTS = --inputdir=tests --outputdir=build --encoding=UTF8 --load-extension=sql_diffusion

EXTRA_CLEAN = build

# Debian's own pg_config wants a development package; those of its PostgreSQL versions, newest first, do without.
ifndef PG_CONFIG
PG_CONFIG := $(firstword $(foreach candidate,pg_config $(shell ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5,5nr),\
	$(if $(wildcard $(shell $(candidate) --pgxs 2>/dev/null)),$(candidate))))
endif
ifneq ($(PG_CONFIG),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

# The pure-SQL extension for servers where no file can be put, as one script for psql and as one for pg_tle (doc/install.md)
MANAGED = $(addprefix build/sql_diffusion--$(EXTVERSION).,plain.sql pg_tle.sql)

all: $(DATA_built) $(MANAGED)

build/sql_diffusion--$(EXTVERSION).sql: $(SQL) Makefile
	@mkdir -p build
	cat $(SQL) > $@.new && mv $@.new $@

build/sql_diffusion--$(EXTVERSION).plain.sql: $(SQL) scripts/managed_sql.py Makefile
	@mkdir -p build
	$(PYTHON3) scripts/managed_sql.py plain $(filter-out sql/dump.sql,$(SQL)) > $@.new && mv $@.new $@

build/sql_diffusion--$(EXTVERSION).pg_tle.sql: $(SQL) scripts/managed_sql.py Makefile
	@mkdir -p build
	$(PYTHON3) scripts/managed_sql.py pg_tle $(SQL) > $@.new && mv $@.new $@

build/sql_diffusion_numpy--$(EXTVERSION).sql: extension/sql_diffusion_numpy.control \
		$(wildcard plpython/*.py plpython/*.sql plpython/*/*.py plpython/*/*/*.py)
	@mkdir -p build
	$(PYTHON3) plpython/build.py > $@.new && mv $@.new $@

build/sql_diffusion--unpackaged.sql:
	@mkdir -p build
	echo '-- Nothing is made: ALTER EXTENSION UPDATE takes over what the plain script made.' > $@

build/sql_diffusion--unpackaged--$(EXTVERSION).sql: $(SQL) scripts/managed_sql.py Makefile
	@mkdir -p build
	$(PYTHON3) scripts/managed_sql.py unpackaged $(SQL) > $@.new && mv $@.new $@

UPDATE = $(PYTHON3) scripts/update_script.py --from $* --to $(EXTVERSION)

build/sql_diffusion--%--$(EXTVERSION).sql: tests/releases/sql_diffusion--%.sql sql/updates/sql_diffusion.sql $(SQL) scripts/update_script.py Makefile
	@mkdir -p build
	($(UPDATE) --release $< --by-hand sql/updates/sql_diffusion.sql $(filter-out $(MODELS),$(SQL)) && cat $(NEW_MODELS)) > $@.new && mv $@.new $@

build/sql_diffusion_numpy--%--$(EXTVERSION).sql: tests/releases/sql_diffusion_numpy--%.sql \
		build/sql_diffusion_numpy--$(EXTVERSION).sql build/sql_diffusion--$(EXTVERSION).sql scripts/update_script.py Makefile
	@mkdir -p build
	$(UPDATE) --release $< --requires tests/releases/sql_diffusion--$*.sql build/sql_diffusion--$(EXTVERSION).sql \
		build/sql_diffusion_numpy--$(EXTVERSION).sql > $@.new && mv $@.new $@

build/operations.sql: $(OPERATIONS) scripts/dispatchers.py
build/networks.sql: $(NETWORKS) scripts/dispatchers.py
build/operations.sql build/networks.sql:
	@mkdir -p build
	$(PYTHON3) scripts/dispatchers.py $(notdir $(basename $@)) $(filter sql/%,$^) > $@.new && mv $@.new $@

build/scheduler_registry.sql: $(SCHEDULERS) scripts/scheduler_registry.py
	@mkdir -p build
	$(PYTHON3) scripts/scheduler_registry.py $(SCHEDULERS) > $@.new && mv $@.new $@

$(MODELS): build/%.sql: scripts/bundle_model.py $(wildcard models/*/* models/*/*/*)
	@mkdir -p build
	$(PYTHON3) scripts/bundle_model.py $(if $(filter $@,$(NEW_MODELS)),--keep-16-bits) models/$* > $@.new && mv $@.new $@

.PHONY: demo test test-versions test-upgrade reference
demo:
	scripts/demo $(SEED)
test:
	scripts/test
test-versions:
	scripts/test-versions $(VERSIONS)
test-upgrade:
	scripts/test-upgrade

# doc/reference.md, from the comments of what is installed
reference: install
	PG_CONFIG=$(PG_CONFIG) scripts/private-cluster $(PYTHON3) scripts/reference_doc.py > build/reference.md
	mv build/reference.md doc/reference.md

# The benchmarks of the SQL path, which take minutes; PYTHON3 has psycopg, and torch and diffusers for the second.
.PHONY: bench-sql-layers bench-unet-sql
bench-sql-layers bench-unet-sql: install
	PG_CONFIG=$(PG_CONFIG) scripts/private-cluster $(PYTHON3) $(patsubst bench_%,bench/%,$(subst -,_,$@))

# Stable Diffusion 1.5 at its real size in pure SQL, which takes hours; make stable-diffusion-sql SIZE=small tries it with few channels, PARTS="unet" does a part
.PHONY: stable-diffusion-sql
stable-diffusion-sql: install
	PG_CONFIG=$(PG_CONFIG) scripts/private-cluster $(PYTHON3) bench/stable_diffusion_sql $(if $(SIZE),--size $(SIZE)) $(if $(PARTS),--parts $(PARTS)) $(if $(CHECKPOINT),--home $(CHECKPOINT))

# The page: PostgreSQL compiled to WebAssembly, and in it the extension, unchanged (doc/web.md). npm brings what package-lock.json names.
.PHONY: web
web: build/web/index.html

build/web/index.html: build/sql_diffusion.tar.gz web/node_modules/.package-lock.json README.md $(wildcard web/*.js* web/source/* doc/pictures/prompt-*.png doc/pictures/butterfly-*.png)
	cd web && node node_modules/typescript/bin/tsc
	node web/build.js build/web $< README.md

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --ignore-scripts --no-progress --loglevel=error
	touch $@

# the extension as PGlite takes it
build/sql_diffusion.tar.gz: build/sql_diffusion--$(EXTVERSION).sql extension/sql_diffusion.control
	rm -rf build/pglite
	mkdir -p build/pglite/share/postgresql/extension
	cp $^ build/pglite/share/postgresql/extension
	cd build/pglite && tar --format=ustar -czf ../sql_diffusion.tar.gz share/postgresql/extension/*
	rm -rf build/pglite

# what PGXN takes: the committed state
.PHONY: dist
dist:
	@mkdir -p dist
	git archive --format=zip --prefix=sql_diffusion-$(EXTVERSION)/ --output=dist/sql_diffusion-$(EXTVERSION).zip HEAD

# The long tests: hundreds of generations, cancels and sessions, odd arguments by the ten thousand, five minutes of everything at once, a
# hundred thousand texts.
.PHONY: stress
stress:
	SQL_DIFFUSION_STRESS=1 scripts/test tests/test_numpy_server.py tests/test_fuzz.py tests/test_concurrency.py tests/test_tokenizer.py tests/test_gpt.py tests/test_image_from_png.py tests/test_jobs.py tests/test_run_kills.py tests/test_ray.py

# PostgreSQL with both extensions, ready for CREATE EXTENSION:
#
#   docker build --tag sql_diffusion .
#   docker run --env POSTGRES_PASSWORD=... --publish 127.0.0.1:5432:5432 sql_diffusion
#
# Everything else is as the official image has it.
ARG POSTGRES=postgres:17-trixie

FROM $POSTGRES AS server
RUN apt-get update \
 && apt-get install --yes --no-install-recommends "postgresql-plpython3-$PG_MAJOR" python3-numpy libopenblas0-pthread \
 && rm -rf /var/lib/apt/lists/*

FROM server AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make
COPY . /sql_diffusion
RUN make -C /sql_diffusion install DESTDIR=/installed

FROM server
COPY --from=build /installed /
